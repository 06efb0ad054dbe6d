"""What a person who knows the method would notice about a run."""

import numpy as np

from cryograd.report.load import RunFiles
from cryograd.report.plots import view_density


def remarks(run: RunFiles) -> list[str]:
    """Sentences about what deserves a look, none where nothing does."""
    found = []
    if run.metrics is None:
        found.append(
            "The run is not finished: this is the map so far, and the poses are missing. "
            f"Continue it with: cryograd {run.command} -o {run.folder} --resume"
        )
    metrics = run.metrics or {}
    if not metrics.get("believed", True):
        found.append(f"The claim of this run is not to be believed: {metrics['why_not']}.")
    texts = [finding["text"] for finding in metrics.get("findings", ())]
    found += [f"{text[0].upper()}{text[1:]}." for text in texts]
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
    return found


def shift_limit(run: RunFiles) -> float | None:
    """Limit of the run's shift search in Å, None where it is not recorded."""
    if run.metrics is not None and run.metrics.get("max_shift_angstrom"):
        return float(run.metrics["max_shift_angstrom"])
    return run.settings.get("max_shift")
