"""What metrics.json says of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd.config import HalfSetRun, ParticleRun, Reconstruct, Refine
from cryograd.data.particles import Particles
from cryograd.engine.convergence import improving
from cryograd.engine.frame import finest_resolution
from cryograd.inspection.finding import Finding, reason_against
from cryograd.inspection.half_maps import of_class, of_empty, of_poses
from cryograd.recipe import Moment
from cryograd.results import ClassResult
from cryograd.version import __version__


def metrics_of(
    config: ParticleRun,
    particles: Particles,
    moment: Moment,
    classes: tuple[ClassResult, ...],
    best: int,
    columns: Mapping[str, NDArray],
    seconds: float,
    given: Sequence[Finding],
) -> dict[str, Any]:
    """What metrics.json says of a run: JSON-able.

    Parameters
    ----------
    config, particles, moment, seconds, given
        As `examination.examined` takes them.
    classes, best, columns
        As a `Result` has them.
    """
    optics, state, table, history = particles.optics[0], moment.state, moment.state.table, moment.history
    found = {
        "command": config.command,
        "version": __version__,
        "n_particles": len(particles),
        "box_size": optics.box_size,
        "pixel_size_angstrom": optics.pixel_size,
        "symmetry": ",".join(dict.fromkeys(single.symmetry for single in classes)),
        "seed": config.seed,
        "device": str(state.mask.device),
        "iterations": len(history),
        "wall_seconds": seconds,
        "stage_seconds": stage_seconds(history),
        "particle_diameter_angstrom": config.particle_diameter or 0.9 * state.extent,
        "max_shift_angstrom": moment.run.max_shift,
        "log_evidence_mean": float(np.mean(table.log_evidence)),
        "pose_entropy_mean": float(np.mean(table.entropy)),
        "max_probability_mean": float(np.mean(table.max_probability)),
    }
    if len(classes) > 1:
        found["class_populations"] = table.classes.mean(axis=0).tolist()
    if not isinstance(config, HalfSetRun):
        found |= {
            "solver_memory_bytes": state.sides[0].best.solver_bytes,
            # Needs independent half-sets, which an ab initio run does not have.
            "resolution_fsc143_angstrom": None,
            "resolution_march_angstrom": float(state.extent / state.radius),
        }
        return found | verdict([*given, *of_empty([single.volume.values for single in classes])], [])
    found |= _of_halves(classes[best])
    if len(classes) > 1:
        found["classes"] = [
            {"symmetry": single.symmetry, "share": single.share} | _of_halves(single) for single in classes
        ]
    minibatches = len(moment.run.sides[0].partition)
    refining = [row for row in state.history if row["stage"] == "refine"]
    found |= {
        "passes": len(refining) / minibatches,
        # A run that was told how long to go on says nothing of it.
        "still_improving": list(improving(state.history, minibatches)) if config.passes is None else None,
        "resolution_limit_angstrom": finest_resolution(particles, config),
        "limited_by": limited_by(particles, config),
        "n_strange": int(np.count_nonzero(moment.run.images.strange)),
        "n_junk": int(np.sum(columns["cryogradJunkProbability"] > 0.5)),
        "shared": _shared(config, moment),
    }
    return found | verdict_of_halves(found, best, given)


def verdict(found: Sequence[Finding], others: Sequence[Finding]) -> dict[str, Any]:
    """Findings, those first that speak against the claim, and whether the claim can be believed.

    Parameters
    ----------
    found
        What concerns the run as a whole or the map that it shows.
    others
        What concerns other classes alone.
    """
    both = [*found, *others]
    ordered = [one for doubts in (True, False) for one in both if one.doubts == doubts]
    reason = reason_against(found)
    return {
        "findings": [one.as_dict() for one in ordered],
        "believed": reason is None,
        "why_not": reason,
    }


def verdict_of_halves(metrics: dict[str, Any], best: int, given: Sequence[Finding]) -> dict[str, Any]:
    """The verdict on a refinement, and on each of its classes.

    Parameters
    ----------
    metrics
        What `metrics.json` says of it so far.
    best
        Place of the class that the run shows.
    given
        What was found in its images before it began.
    """
    extent, shared = metrics["box_size"] * metrics["pixel_size_angstrom"], [*given, *of_poses(metrics)]
    if "classes" not in metrics:
        own = of_class(metrics, metrics["n_particles"], extent, None)
        return verdict([*shared, *own], [])
    owns = [
        of_class(figures, figures["share"] * metrics["n_particles"], extent, number)
        for number, figures in enumerate(metrics["classes"], 1)
    ]
    reasons = [reason_against([*shared, *own]) for own in owns]
    classes = [
        figures | {"believed": reason is None, "why_not": reason}
        for figures, reason in zip(metrics["classes"], reasons, strict=True)
    ]
    others = [one for number, own in enumerate(owns) if number != best for one in own]
    return verdict([*shared, *owns[best]], others) | {"classes": classes}


def limited_by(particles: Particles, config: ParticleRun) -> str:
    """What says how finely images are looked at: ``images``, or the option."""
    return "images" if (config.max_resolution or 0.0) <= particles.nyquist else "--max-resolution"


def stage_seconds(history: list[dict[str, Any]]) -> dict[str, float]:
    """Time of each stage of a run."""
    stages: dict[str, float] = {}
    for row in history:
        for stage, spent in row["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + spent
    return stages


def _of_halves(single: ClassResult) -> dict[str, Any]:
    """What metrics.json says of the half maps of a class."""
    findings, error = single.findings, single.error
    assert findings is not None
    assert error is not None
    found, guinier, inside = findings.correlation, findings.sharpened.guinier, findings.mask.values > 0.5
    quartiles = np.quantile(findings.local_resolution[inside], [0.25, 0.5, 0.75])
    return {
        "resolution_fsc143_angstrom": found.resolution(),
        "resolution_fsc05_angstrom": found.resolution(0.5),
        "resolution_is_bound": found.is_bound,
        "mask_too_tight": bool(found.mask_too_tight),
        "b_factor_angstrom2": guinier.b_factor,
        "b_factor_missing": guinier.no_fit,
        "local_resolution_quartiles_angstrom": quartiles.round(2).tolist(),
        "conical_fsc_area_ratio": findings.conical.ratio,
        "sampling_compensation_factor": findings.sampling.compensation,
        "scarce_directions": findings.sampling.scarce,
        "error_over_expected": float(np.sqrt(np.median(error.excess[inside]))),
    }


def _shared(config: HalfSetRun, moment: Moment) -> dict[str, Any]:
    """What metrics.json says of all that the half-sets have in common while they are refined."""
    state, curves = moment.state, moment.state.curves
    assert curves is not None
    own = isinstance(config, Reconstruct) and config.independent_halves
    own = own or (isinstance(config, Refine) and config.second_volume is not None)
    joint = "of all particles" if moment.part > 0 else "given"
    rows = sum(row["stage"] == "refine" for row in state.history)
    return {
        "start_map": "own" if own else joint,
        "start_resolution_angstrom": state.extent / state.start_radius,
        "start_radius": state.start_radius,
        "mask": "sphere" if config.mask is None else str(config.mask),
        "mask_diameter_angstrom": config.particle_diameter or 0.9 * state.extent,
        "density_scale": state.scale,
        "curves": rows * len(curves),
        "shells": curves.shape[1],
        "symmetry": ",".join(dict.fromkeys(moment.run.symmetries)),
        "symmetry_found": config.symmetry == "auto",
        "poses_of_the_file": isinstance(config, Refine) and (config.seeded or config.fixed_poses),
    }
