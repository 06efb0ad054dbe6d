"""What speaks against a refinement, by what it has measured of itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np

# Mean probability of the best orientations below which the images do not tell them: the half maps then agree
# on what all orientations share. Wrong maps of 200 images of a membrane protein and of 400 of ferritin had
# 0.004 to 0.026, right ones of the former 0.09, of other particles 0.4 to 0.8.
UNTOLD = 0.03
# Median standard error over the one that images at known poses would have, from which on poses are wrong or
# images share errors. Right maps had 0.9 to 1.1, wrong ones of the membrane protein 2.0.
UNEXPECTED = 1.5
# Shells from which on, and share below which, unevenness of the cones is worth a remark: with few shells the
# least of all cones is mostly chance.
EVEN_SHELLS, UNEVEN = 15.0, 0.5
# Times the finest resolution that images were looked at to, below which the resolution is a bound.
AT_LIMIT = 1.01


def of_half_maps(metrics: dict[str, Any]) -> Iterator[str]:
    """Sentences about what looks wrong in a refinement, and what to do, from its metrics.

    Parameters
    ----------
    metrics
        What `metrics.json` says of it.
    """
    if metrics["max_probability_mean"] < UNTOLD:
        yield (
            "the images do not tell their orientations, of which the best has a probability of "
            f"{metrics['max_probability_mean']:.1%} in the mean: the half maps agree on what all of them "
            "share, and their resolution is not that of the molecule; try another --seed or --symmetry, or "
            "more particles"
        )
    if metrics["error_over_expected"] > UNEXPECTED:
        yield (
            f"the half maps differ {metrics['error_over_expected']:.2g} times as much as images at known "
            "poses would leave them: many orientations are wrong, or images share errors; compare the map "
            "with that of another --seed"
        )
    if metrics["n_junk"]:
        yield (
            f"{metrics['n_junk']:,} picks are probably not of the particle, by their scale or by where they "
            "lie in their images: they are in junk.star, and counted less in the map"
        )
    if metrics["mask_too_tight"]:
        yield "the mask makes correlation of its own; the resolution is that of the half maps without it"
    if (metrics["resolution_fsc143_angstrom"] or np.inf) < AT_LIMIT * metrics["resolution_limit_angstrom"]:
        yield (
            f"the half maps agree up to {metrics['resolution_limit_angstrom']:.3g} Å, the finest that was "
            "looked at: it may be better, as smaller pixels or a finer --max-resolution would tell"
        )
    resolved = metrics["box_size"] * metrics["pixel_size_angstrom"]
    resolved /= metrics["resolution_fsc143_angstrom"] or np.inf
    if resolved >= EVEN_SHELLS and metrics["conical_fsc_area_ratio"] < UNEVEN:
        yield (
            "the resolution differs with the direction: along the worst one the correlation of the half maps "
            f"is {metrics['conical_fsc_area_ratio']:.0%} of what it is along the best"
        )
