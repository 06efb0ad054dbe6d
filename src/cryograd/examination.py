"""A run that has ended, looked at: what its half maps, its poses and its particles tell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cryograd.config import HalfSetRun, ParticleRun
from cryograd.data.particles import Particles
from cryograd.engine.curves import noise_of_mean
from cryograd.engine.frame import finest_resolution, mask_of
from cryograd.engine.run import Run
from cryograd.engine.setup import SCALE_WIDTH
from cryograd.engine.state import State
from cryograd.inspection.finding import Finding
from cryograd.maps import Map
from cryograd.metrics import metrics_of
from cryograd.objective.picks import Picks
from cryograd.recipe import Moment
from cryograd.results import ClassResult, Result, maps_of
from cryograd.validation.half_maps import examine_half_maps
from cryograd.validation.standard_error import standard_error


def examined(
    config: ParticleRun,
    particles: Particles,
    moment: Moment,
    seconds: float,
    given: Sequence[Finding] = (),
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
    given
        What was found in the images before the run.
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
        columns |= _half_set_columns(particles, state, moment.run)
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
        metrics=metrics_of(config, particles, moment, classes, best, columns, seconds, given),
        history=moment.history,
        symmetries=moment.behind.symmetries,
    )


def _class_result(
    config: ParticleRun, particles: Particles, moment: Moment, number: int, support: NDArray[np.float32]
) -> ClassResult:
    """One class of a finished run, and what its half maps say."""
    state, table = moment.state, moment.state.table
    symmetry = state.tracks[number][0].symmetry
    members = table.classes.argmax(axis=1) == number
    maps = maps_of(particles, state, number)
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


def _half_set_columns(particles: Particles, state: State, run: Run) -> dict[str, NDArray]:
    """Half-set, scale and probability of being junk."""
    table, strange = state.table, run.images.strange
    cues = table.cues(np.arange(len(particles)), SCALE_WIDTH, particles.scale_group)
    picks = Picks.of(cues.at(np.flatnonzero(~strange)), run.max_shift, state.extent / state.size)
    junk = np.zeros(len(particles)) if picks is None else picks.junk(cues)
    return {
        "rlnRandomSubset": table.half.astype(np.int64),
        "cryogradScale": cues.scale,
        "cryogradJunkProbability": np.where(strange, 1.0, junk),
    }
