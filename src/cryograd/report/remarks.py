"""What a person who knows the method would notice about a run."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cryograd.report.load import RunFiles
from cryograd.report.plots import view_density

# Shells from which on, and share below which, unevenness of the cones is worth a remark.
EVEN_SHELLS, UNEVEN = 15.0, 0.5


def remarks(run: RunFiles) -> list[str]:
    """Sentences about what deserves a look, none where nothing does."""
    found = []
    if run.metrics is None:
        found.append(
            "The run is not finished: this is the map so far, and the poses are missing. "
            f"Continue it with: cryograd {run.command} -o {run.folder} --resume"
        )
    found += _of_metrics(run.metrics or {})
    if run.poses is None:
        return found
    limit = shift_limit(run)
    at_limit = float(np.mean(np.linalg.norm(run.poses.shifts, axis=1) > 0.95 * limit)) if limit else 0.0
    if at_limit > 0.02:
        found.append(
            f"{at_limit:.0%} of the particles lie at the limit of the shift search, {limit:.0f} Å: "
            "try a larger --max-shift, or centre the particles again."
        )
    density = view_density(run.poses.rotations, run.common_symmetry, longitudes=16)
    # Poisson noise leaves bins empty by itself where there are few particles.
    if len(run.poses.rotations) >= 20 * density.size and float(np.mean(density < 0.05)) > 0.3:
        found.append(
            "Views are missing: a third of the directions or more has hardly any particles, and the map is "
            "blurred along them."
        )
    if run.poses.max_probability is not None and float(np.median(run.poses.max_probability)) < 0.02:
        found.append(
            "The orientations are uncertain: the best one of the median particle has a probability below 2 %."
        )
    return found


def _of_metrics(metrics: dict[str, Any]) -> Iterator[str]:
    """What a run's metrics say."""
    for finding in metrics.get("findings", ()):
        yield finding[0].upper() + finding[1:] + "."
    if metrics.get("n_junk"):
        yield (
            f"{metrics['n_junk']:,} picks are probably not of the particle, by their scale or by where they "
            "lie in their images: they are in junk.star, and counted less in the map."
        )
    if metrics.get("mask_too_tight"):
        yield "The mask makes correlation of its own; the resolution is that of the half maps without it."
    resolved = (metrics.get("box_size") or 0) * (metrics.get("pixel_size_angstrom") or 0.0)
    resolved /= metrics.get("resolution_fsc143_angstrom") or np.inf
    # With few shells the least of all cones is mostly chance.
    if resolved >= EVEN_SHELLS and metrics["conical_fsc_area_ratio"] < UNEVEN:
        yield (
            "The resolution differs with the direction: along the worst one the correlation of the half maps "
            f"is {metrics['conical_fsc_area_ratio']:.0%} of what it is along the best."
        )


def shift_limit(run: RunFiles) -> float | None:
    """Limit of the run's shift search in Å, None where it is not recorded."""
    if run.metrics is not None and run.metrics.get("max_shift_angstrom"):
        return float(run.metrics["max_shift_angstrom"])
    return run.settings.get("max_shift")
