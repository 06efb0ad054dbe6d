"""Refinement from a map to the highest resolution, in two halves that never see each other's images.

`refine` is a generator of states, as `reconstruct.abinitio` is. All that the halves share are the numbers of
one curve, the Fourier shell correlation of their maps: how far to open the spectrum, and how much is noise.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Refine
from cryograd.data.particles import Particles
from cryograd.fourier import lowpass_volume, quick_size, radius_grid
from cryograd.halves import EDGE, Halves, Plan, prepare
from cryograd.minibatch import (
    Reading,
    at_scale_one,
    image_scales,
    minibatch,
    near,
    poses_at,
    renoised,
    whitened,
)
from cryograd.objective.ctf_refinement import CtfStatistics, refine_ctf
from cryograd.objective.shrinkage import LARGEST_RATIO, shell_means, wiener_precision
from cryograd.pose.inference import concatenated
from cryograd.pose.posterior import Poses
from cryograd.rotations import FloatArray
from cryograd.setup import Setup
from cryograd.solvers.incremental import IncrementalState
from cryograd.solvers.schedule import Step
from cryograd.state import State
from cryograd.steps.protocol import Local
from cryograd.steps.quadratic import Quadratic
from cryograd.validation.gold_standard import gold_standard
from cryograd.validation.standard_error import expected_variance

# Curvature that the unfiltered maps' least measured frequencies are taken to have, as a fraction of their
# shell's mean, and conjugate gradients that solve for them.
RIDGE, SOLUTION = 1e-3, 24
# Å: how far a particle's defocus may be from what its file says, as a standard deviation.
DEFOCUS_WIDTH = 300.0
# What the history has of both halves together.
MEANS = ("log_evidence", "entropy", "max_probability")
# Decimals of the shared correlation.
DECIMALS = 6


def refine(
    particles: Particles,
    config: Refine,
    resume: Halves | None = None,
    reading: Callable[[int, int], None] | None = None,
    shared: Sequence[Sequence[float]] | None = None,
) -> Iterator[Halves]:
    """Refine a map.

    Parameters
    ----------
    particles
        The images and their CTFs. Half-sets that the file names are kept; poses are not looked at.
    config
        Options.
    resume
        A state to go on from.
    reading
        Called with the number of images read and the number of all.
    shared
        The correlation of each iteration, in place of the half maps' own: with another run's, one half
        repeats that run whatever the other half is.

    Yields
    ------
    Halves
        After every iteration. The last one also has unfiltered half maps, and a pose for every particle.

    Raises
    ------
    CryogradError
        An image, the map, the mask or an option does not fit.
    """
    setups, plan, halves = prepare(particles, config, reading)
    if resume is not None:
        halves = resume.to(halves.volume.device)
    # Held on to, it would be in memory all along.
    del resume
    while halves.iteration < plan.total:
        began = time.perf_counter()
        step = plan.step(halves, len(setups[0].partition[0]))
        if step.stage == "poses" and halves.stage != "poses":
            # The last pass begins a sum of its own.
            halves = halves.without_memory()
        halves = halves.in_box(quick_size(step.radius, setups[0].images.size), setups[0].mask)
        change = {
            "refine": partial(_optimise, config, max(halves.resolved, halves.start_radius - 0.5 * EDGE)),
            "ctf": partial(_refine_ctf, plan),
            "poses": partial(_assign_poses, plan, config),
        }[step.stage]
        ratio = _noise_to_signal(halves)
        given = None if shared is None else shared[halves.iteration]
        states, start_radius, history = list(halves.states), halves.start_radius, halves.history
        # Each half goes when its next is there: both would take a GB at 256 px.
        del halves
        for number, setup in enumerate(setups):
            states[number] = change(setup, states[number], step, ratio)
        halves = Halves((states[0], states[1]), start_radius, history)
        del states
        halves = _together(halves, time.perf_counter() - began, given)
        yield halves


def noise_of_mean(halves: Halves) -> FloatArray:
    """Variance that each shell of images at known poses adds to a voxel of the mean of the unfiltered maps.

    Of a finished refinement in its working box, before the point group is averaged over; shape (W // 2 + 1,).
    """
    variance = np.zeros(len(halves.correlation))
    for state in halves.states:
        solver, images = state.candidates[0].solver, int(state.posterior.visited.sum())
        assert isinstance(solver, IncrementalState)
        variance += 0.25 * expected_variance(solver.mean().curvature, images, RIDGE)
    return variance


def _optimise(config: Refine, reached: float, setup: Setup, state: State, step: Step, ratio: Tensor) -> State:
    """One half after its next minibatch; the half maps are resolved up to a radius."""
    likelihood = setup.likelihood(step.radius, len(state.mask))
    indices, number = minibatch(setup, state, step)
    batch = Reading(setup, state, indices, likelihood.disc)
    found = likelihood.evaluate(state.volume, batch, poses_at(setup, state, indices, step.radius))
    local = near(setup, state, step, likelihood, found, batch, number)
    local = replace(local, precision=partial(wiener_precision, ratio))
    move = setup.solver.step(state.candidates[0].solver, state.volume, local)
    # The constraint and the mask make much of what the halves agree on into more that they seem to agree on.
    # Poses do not see beyond what is resolved without them.
    candidate = replace(
        state.candidates[0],
        volume=lowpass_volume(_allowed(move.volume, state, config), reached, EDGE),
        solver=move.state,
        unfiltered=move.volume,
    )
    noise = renoised(setup, state, found.residual, batch, likelihood.disc)
    table = state.posterior.updated(indices, at_scale_one(setup, state, indices, found.poses))
    if found.marginals:
        state = replace(state, memory=state.memory.updated(indices, found.marginals))
    following = state.following(step, found.poses, (candidate,), noise, table, len(indices))
    following.history[-1]["points"] = found.points
    return following


def _allowed(volume: Tensor, state: State, config: Refine) -> Tensor:
    """A map that the mask and the constraint allow."""
    masked = volume * state.mask
    # Noise in the map draws images into false poses, and half of it is below zero.
    return masked.clamp(min=0.0) if config.nonnegative else masked


def _refine_ctf(plan: Plan, setup: Setup, state: State, step: Step, ratio: Tensor) -> State:
    """One half with the defocus of its next particles; the map does not change."""
    del ratio
    indices = np.array_split(setup.train, plan.chunks)[step.number % plan.chunks]
    likelihood = setup.likelihood(step.radius, len(state.mask))
    # What defocus spreads beyond the particle says most of it.
    batch, loaded = whitened(setup, state, indices, likelihood.disc, masked=False)
    poses = poses_at(setup, state, indices, step.radius)
    ctf = loaded.ctf * image_scales(setup, state, indices)[:, None]
    parts, found = [], []
    for part, inference in likelihood.inferences(state.volume, batch, poses):
        parts.append((indices[part], CtfStatistics.of(inference.statistics, ctf[part])))
        found.append(inference.poses)
    frequencies = torch.as_tensor(likelihood.disc.frequencies / state.extent, device=loaded.ctf.device)
    fit = refine_ctf(setup.images.particles, frequencies, parts, DEFOCUS_WIDTH, setup.scale_width)
    change = state.posterior.defocus_change.copy()
    change[indices] = fit.change[indices]
    table = replace(state.posterior, defocus_change=change)
    return state.following(
        step, Poses(*concatenated(found)), state.candidates, state.noise, table, len(indices)
    )


def _assign_poses(plan: Plan, config: Refine, setup: Setup, state: State, step: Step, ratio: Tensor) -> State:
    """One half with the poses of its next particles at its last map, which does not change meanwhile.

    What they say of the map at all frequencies is added up. When all have been seen, the sum has two minima:
    the map, and the map without prior, mask and constraint.
    """
    number = step.number
    indices = np.array_split(setup.train, plan.chunks)[number]
    likelihood = setup.likelihood(step.radius, len(state.mask))
    batch = Reading(setup, state, indices, likelihood.disc)
    found = likelihood.evaluate(state.volume, batch, poses_at(setup, state, indices, step.radius))
    local = near(setup, state, step, likelihood, found, batch, (number, plan.chunks))
    seen = Quadratic.of(local, state.volume, len(indices) / len(setup.train))
    candidate = state.candidates[0]
    assert isinstance(candidate.solver, IncrementalState)
    seen = Quadratic.mean([*filter(None, candidate.solver.parts), seen])
    candidate = replace(candidate, solver=IncrementalState((seen,)))
    if number == plan.chunks - 1:
        candidate = replace(
            candidate,
            volume=_allowed(
                _minimum(seen, state.volume, local, partial(wiener_precision, ratio)), state, config
            ),
            unfiltered=_minimum(seen, state.volume, local, lambda curvature: RIDGE * shell_means(curvature)),
        )
    table = state.posterior.updated(indices, at_scale_one(setup, state, indices, found.poses))
    return state.following(step, found.poses, (candidate,), state.noise, table, len(indices))


def _minimum(seen: Quadratic, volume: Tensor, local: Local, precision: Callable[[Tensor], Tensor]) -> Tensor:
    """The minimum of what all images say and of a prior on the spectrum."""
    local = replace(local, precision=precision)
    return volume - seen.newton_step(volume, local, RIDGE, SOLUTION, RIDGE)


def _together(halves: Halves, seconds: float, given: Sequence[float] | None) -> Halves:
    """The halves with a row for the iteration that they have done."""
    first, second = halves.states
    rows = [state.history[-1] for state in halves.states]
    correlation = _correlation(first, second) if first.stage == "refine" else halves.correlation.tolist()
    row = {name: 0.5 * (rows[0][name] + rows[1][name]) for name in MEANS} | {
        "iteration": halves.iteration,
        "stage": first.stage,
        "radius": first.radius,
        "images_drawn": first.images_drawn + second.images_drawn,
        "noise": [row["noise"] for row in rows],
        "correlation": list(correlation if given is None else given),
        "seconds": {first.stage: seconds},
    }
    halves = replace(halves, history=[*halves.history, row])
    row["resolution"] = halves.resolution
    return halves


def _correlation(first: State, second: State) -> list[float]:
    """Correlation of the half maps before mask and constraint, by shell of the images, (W // 2 + 1,).

    In the mask, without what it adds; 0 beyond the open radius.
    """
    maps = (state.candidates[0].unfiltered for state in (first, second))
    one, two = (volume.cpu().numpy() for volume in maps if volume is not None)
    found = gold_standard(one, two, first.mask.cpu().numpy(), first.extent / len(first.mask), seed=0)
    known = np.arange(len(found.corrected)) <= first.radius
    within = np.where(known, found.corrected, 0.0).round(DECIMALS)
    return np.pad(within, (0, first.size // 2 + 1 - len(within))).tolist()


def _noise_to_signal(halves: Halves) -> Tensor:
    """Ratio of noise to signal of a half map at each of its coefficients: (1 − FSC)/FSC."""
    mask = halves.states[0].mask
    correlation = torch.as_tensor(halves.correlation, dtype=mask.dtype, device=mask.device)
    ratio = ((1.0 - correlation) / correlation.clamp(min=1e-6)).clamp(0.0, LARGEST_RATIO)
    shell = radius_grid(len(mask), 3, mask.device).round().long()
    # The corners of the box beyond Nyquist are never open.
    return ratio[shell.clamp(max=len(ratio) - 1)]
