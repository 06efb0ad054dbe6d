"""What a finished run says: its maps and what their halves tell of them, its particles, its numbers."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryograd.config import HalfSetRun, ParticleRun, Reconstruct, Refine
from cryograd.data.particles import Particles
from cryograd.data.star import as_numbers, particle_table
from cryograd.engine.convergence import improving
from cryograd.engine.curves import noise_of_mean
from cryograd.engine.frame import finest_resolution, mask_of, taken_out
from cryograd.engine.setup import SCALE_WIDTH
from cryograd.engine.state import State
from cryograd.inspection.findings import of_ctf
from cryograd.inspection.half_maps import of_empty, of_half_maps
from cryograd.inspection.spectrum import Rings
from cryograd.maps import Map
from cryograd.objective.picks import Picks
from cryograd.recipe import Moment
from cryograd.validation.half_maps import Findings, examine_half_maps
from cryograd.validation.standard_error import StandardError, standard_error
from cryograd.version import __version__

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ClassResult:
    """One map, and what its half maps say.

    Parameters
    ----------
    symmetry
        Point group.
    share
        Fraction of the particles whose likeliest class it is.
    members
        Whether each particle is one of these, shape (n,).
    volume
        The map; of half-sets their mean, filtered.
    halves
        The unfiltered half maps; None where there are no half-sets.
    findings, error
        What the half maps say, and the standard error of their mean; likewise.
    """

    symmetry: str
    share: float
    members: NDArray[np.bool_]
    volume: Map
    halves: tuple[Map, Map] | None = None
    findings: Findings | None = None
    error: StandardError | None = None

    @property
    def resolution(self) -> float | None:
        """Å at which the half maps' correlation falls below 0.143; None where there is no such point."""
        return None if self.findings is None else self.findings.correlation.resolution()

    def _map(self, values: NDArray[np.float32]) -> Map:
        return Map(values, self.volume.pixel_size)

    @property
    def maps(self) -> dict[str, Map]:
        """All maps by the names of their files."""
        found = {"volume": self.volume}
        if self.halves is not None and self.findings is not None and self.error is not None:
            found |= {
                "half1": self.halves[0],
                "half2": self.halves[1],
                "volume_sharpened": self._map(self.findings.sharpened.density),
                "mask": self._map(self.findings.mask.values),
                "local_resolution": self._map(self.findings.local_resolution),
                "standard_error": self._map(self.error.values),
            }
        return found


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Parameters
    ----------
    command
        ``abinitio``, ``refine`` or ``reconstruct``.
    classes
        The maps, in the order of their numbers.
    best
        Place of the one with most particles.
    mask
        Where the molecule was looked for.
    columns
        What is known of each particle beside its pose, in RELION's names, shape (n,) each.
    given, rotations, shifts
        The particles, with refined CTFs where these were looked for; their poses (n, 3, 3) and origins (n, 2)
        in Å.
    top_poses
        Rotations (n, R, 3, 3), shifts (n, R, 2) in Å and probabilities (n, R); None where they were not asked
        for.
    metrics
        The run in numbers, JSON-able.
    history
        One row for each iteration.
    symmetries
        Point groups that were looked for in the start, the best first; empty where none were.
    """

    command: str
    classes: tuple[ClassResult, ...]
    best: int
    mask: Map
    columns: dict[str, NDArray]
    given: Particles = field(repr=False)
    rotations: NDArray[np.float64] = field(repr=False)
    shifts: NDArray[np.float64] = field(repr=False)
    top_poses: tuple[NDArray, NDArray, NDArray] | None = field(repr=False)
    metrics: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)
    symmetries: list[dict[str, Any]]

    @property
    def volume(self) -> Map:
        """The map of the class with most particles."""
        return self.classes[self.best].volume

    @property
    def maps(self) -> dict[str, Map]:
        """All maps of that class by the names of their files, such as ``half1`` and ``volume_sharpened``."""
        return {"mask": self.mask} | self.classes[self.best].maps

    @property
    def resolution(self) -> float | None:
        """Å by the half maps of that class, at FSC 0.143."""
        return self.classes[self.best].resolution

    @property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Correlation of that class's half maps against ``frequency`` in 1/Å; empty where there are none."""
        findings = self.classes[self.best].findings
        if findings is None:
            return {}
        found = findings.correlation
        return {
            "frequency": np.arange(len(found.corrected)) / found.extent,
            "fsc": found.correlation,
            "unmasked": found.unmasked,
            "masked": found.masked,
            "randomised": found.randomised,
        }

    @property
    def particles(self) -> "pd.DataFrame":
        """The particles with their poses, under RELION's names and in RELION's units."""
        return as_numbers(particle_table(self.given, self.rotations, self.shifts, self.columns))


def examined(
    config: ParticleRun, particles: Particles, moment: Moment, seconds: float, rings: list[Rings]
) -> Result:
    """Look at what a run has ended with.

    Parameters
    ----------
    config, particles
        What was run.
    moment
        Its last moment.
    seconds
        That it took.
    rings
        What the Thon rings of the images say of their CTFs.
    """
    state, table = moment.state, moment.state.table
    support = Map(mask_of(state, particles), particles.optics[0].pixel_size)
    classes = tuple(
        _class_result(config, particles, moment, number, support.values)
        for number in range(len(state.tracks) if moment.run.classes > 1 else 1)
    )
    best = max(range(len(classes)), key=lambda number: classes[number].share)
    columns = _posterior_columns(moment)
    if config.classes > 1:
        columns["rlnClassNumber"] = 1 + table.classes.argmax(axis=1)
        columns |= {f"cryogradClassProbability{k}": p for k, p in enumerate(table.classes.T, 1)}
    top = None
    if isinstance(config, HalfSetRun):
        columns |= _half_set_columns(particles, state, moment.run.max_shift)
        if config.top_poses:
            top = (table.top_rotations, table.top_shifts, table.top_probabilities)
        if config.refine_ctf:
            u, v = (values + table.defocus_change for values in (particles.defocus_u, particles.defocus_v))
            particles = particles.with_ctf(u, v, particles.scale)
    return Result(
        command=config.command,
        classes=classes,
        best=best,
        mask=support,
        columns=columns,
        given=particles,
        rotations=table.rotations,
        shifts=table.shifts,
        top_poses=top,
        metrics=_metrics(config, particles, moment, classes, best, columns, seconds, rings),
        history=moment.history,
        symmetries=moment.behind.symmetries,
    )


def maps_so_far(particles: Particles, moment: Moment) -> list[dict[str, Map]]:
    """The maps of each class at a moment of a run, by the names of their files; of starts the best one's."""
    numbers = range(moment.run.classes) if moment.run.classes > 1 else [0]
    return [_maps_of(particles, moment.state, number) for number in numbers]


def _maps_of(particles: Particles, state: State, number: int) -> dict[str, Map]:
    """A class's map, and where there are half-sets their unfiltered maps."""
    tracks = state.tracks[number]

    def out(volume: Any) -> Map:
        return taken_out(state, particles, tracks[0].symmetry, volume)

    if len(tracks) == 1:
        return {"volume": out(tracks[0].volume)}
    halves = {f"half{half}": out(track.shown) for half, track in enumerate(tracks, 1)}
    return {"volume": out(0.5 * (tracks[0].volume + tracks[1].volume))} | halves


def _class_result(
    config: ParticleRun, particles: Particles, moment: Moment, number: int, support: NDArray[np.float32]
) -> ClassResult:
    """One class of a finished run, and what its half maps say."""
    state, table = moment.state, moment.state.table
    symmetry = state.tracks[number][0].symmetry
    members = table.classes.argmax(axis=1) == number
    maps = _maps_of(particles, state, number)
    share = float(members.mean())
    if not moment.run.apart:
        return ClassResult(symmetry, share, members, maps["volume"])
    first, second = maps["half1"], maps["half2"]
    findings = examine_half_maps(
        first.values,
        second.values,
        first.pixel_size,
        support,
        None if config.mask is None else support,
        table.rotations[members] if members.any() else table.rotations,
        symmetry,
        config.seed,
        finest_resolution(particles, config),
    )
    # Densities have the unit of the sampling that they are given at.
    unit = (first.pixel_size * len(state.mask) / state.extent) ** 2
    error = standard_error(
        first.values,
        second.values,
        first.pixel_size,
        findings.correlation.resolution() or 2.0 * first.pixel_size,
        noise_of_mean(moment.run, state, number) * unit,
        state.extent,
        symmetry,
    )
    return ClassResult(symmetry, share, members, maps["volume"], (first, second), findings, error)


def _posterior_columns(moment: Moment) -> dict[str, NDArray]:
    """Columns of the particle file that say how sure each pose is."""
    table = moment.state.table
    return {
        "rlnMaxValueProbDistribution": table.max_probability,
        "rlnLogLikeliContribution": table.log_evidence,
        "cryogradPoseEntropy": table.entropy,
        "cryogradEffectiveSampleSize": table.effective_size,
    }


def _half_set_columns(particles: Particles, state: State, max_shift: float) -> dict[str, NDArray]:
    """Half-set, scale and probability of being junk."""
    table = state.table
    cues = table.cues(np.arange(len(particles)), SCALE_WIDTH, particles.scale_group)
    picks = Picks.of(cues, max_shift, state.extent / state.size)
    return {
        "rlnRandomSubset": table.half.astype(np.int64),
        "cryogradScale": cues.scale,
        "cryogradJunkProbability": np.zeros(len(particles)) if picks is None else picks.junk(cues),
    }


def _metrics(
    config: ParticleRun,
    particles: Particles,
    moment: Moment,
    classes: tuple[ClassResult, ...],
    best: int,
    columns: dict[str, NDArray],
    seconds: float,
    rings: list[Rings],
) -> dict[str, Any]:
    """What metrics.json says of a run: JSON-able."""
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
        "findings": list(of_ctf([kind.facts for kind in rings])),
        "max_probability_mean": float(np.mean(table.max_probability)),
    }
    if len(classes) > 1:
        found["class_populations"] = table.classes.mean(axis=0).tolist()
    if not isinstance(config, HalfSetRun):
        return found | {
            "findings": [*found["findings"], *of_empty([single.volume.values for single in classes])],
            "solver_memory_bytes": state.sides[0].best.solver_bytes,
            # Needs independent half-sets, which an ab initio run does not have.
            "resolution_fsc143_angstrom": None,
            "resolution_march_angstrom": float(state.extent / state.radius),
        }
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
        "n_junk": int(np.sum(columns["cryogradJunkProbability"] > 0.5)),
        "shared": _shared(config, moment),
    }
    return found | {"findings": [*found["findings"], *of_half_maps(found)]}


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
        "mask_too_tight": bool(found.mask_too_tight),
        "b_factor_angstrom2": guinier.b_factor,
        "b_factor_missing": guinier.no_fit,
        "local_resolution_quartiles_angstrom": quartiles.round(2).tolist(),
        "conical_fsc_area_ratio": findings.conical.ratio,
        "sampling_compensation_factor": findings.sampling.compensation,
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
