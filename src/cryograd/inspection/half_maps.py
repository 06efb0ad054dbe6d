"""What speaks against a run, by what it has measured of itself."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Mean probability of the best orientations below which the images hardly tell them, and the half maps may
# agree on what all orientations share. Three wrong maps, of 200 images of a membrane protein and 400 of
# ferritin, had 0.004 to 0.026. Right maps mostly have 0.06 to 0.8; but one of ferritin had 0.005, and one of
# 40 images 0.017.
UNTOLD = 0.03
# Median standard error over the one that images at known poses would have, from which on poses are wrong or
# images share errors. Right maps had 0.9 to 1.1, wrong ones of the membrane protein 2.0.
UNEXPECTED = 1.5
# Shells from which on, and share below which, unevenness of the cones is worth a remark: with few shells the
# least of all cones is mostly chance.
EVEN_SHELLS, UNEVEN = 15.0, 0.5
# Times the finest resolution that images were looked at to, below which the resolution is a bound.
AT_LIMIT = 1.01


def of_empty(maps: Sequence[NDArray[np.float32]]) -> Iterator[str]:
    """What to do about maps (L, L, L) of classes, or one of all images, that have no density."""
    for number in (number for number, density in enumerate(maps, 1) if not density.any()):
        yield (
            f"the map{f' of class {number}' if len(maps) > 1 else ''} is empty: the prior, or the other "
            "classes, were stronger than what its images say; give --prior none, a coarser --max-resolution, "
            "or more particles"
        )


def of_half_maps(metrics: dict[str, Any]) -> Iterator[str]:
    """Sentences about what looks wrong in a refinement, and what to do, from its metrics.

    Parameters
    ----------
    metrics
        What `metrics.json` says of it.
    """
    if metrics["max_probability_mean"] < UNTOLD:
        yield (
            "the images hardly tell their orientations, of which the best has a probability of "
            f"{metrics['max_probability_mean']:.1%} in the mean: the half maps may agree on what all of them "
            "share, and their resolution may not be that of the molecule; compare the map with that of "
            "another --seed"
        )
    if metrics["n_junk"]:
        picks = "pick is" if metrics["n_junk"] == 1 else "picks are"
        yield (
            f"{metrics['n_junk']:,} {picks} probably not of the particle, by scale or by place in the image "
            "(cryogradJunkProbability above 0.5): each counts in the map as much as its half-set tells that "
            "it belongs"
        )
    sampling = metrics["box_size"] * metrics["pixel_size_angstrom"], metrics["resolution_limit_angstrom"]
    if "classes" not in metrics:
        yield from _of_class(metrics, *sampling)
        return
    for number, figures in enumerate(metrics["classes"], 1):
        if figures["share"] == 0.0:
            yield f"class {number}: it has no particles, and its map means nothing; give fewer --classes"
        else:
            yield from (f"class {number}: {finding}" for finding in _of_class(figures, *sampling))


def _of_class(figures: dict[str, Any], extent: float, limit: float) -> Iterator[str]:
    """What the half maps of one class say; side of the box, and how fine images were looked at, in Å."""
    resolution = figures["resolution_fsc143_angstrom"]
    if resolution is None:
        yield "the half maps agree at no resolution: nothing that they show can be believed"
        return
    if figures["error_over_expected"] > UNEXPECTED:
        yield (
            f"the half maps differ {figures['error_over_expected']:.2g} times as much as images at known "
            "poses would leave them: many orientations are wrong, or images share errors; compare the map "
            "with that of another --seed"
        )
    if figures["mask_too_tight"]:
        yield "the mask makes correlation of its own; the resolution is that of the half maps without it"
    if resolution < AT_LIMIT * limit:
        yield (
            f"the half maps agree up to {limit:.3g} Å, the finest that was looked at: the resolution may be "
            "better, as smaller pixels or a finer --max-resolution would tell"
        )
    if extent / resolution >= EVEN_SHELLS and figures["conical_fsc_area_ratio"] < UNEVEN:
        yield (
            "the resolution differs with the direction: along the worst one the correlation of the half maps "
            f"is {figures['conical_fsc_area_ratio']:.0%} of what it is along the best"
        )
