"""The loop: random starts, frequency march, last pass for the poses. Read this first.

`abinitio` is a generator of states. It computes; the shell around it saves, shows and reports.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.minibatch import minibatch, near, poses_at, renoised, search_at, whitened
from cryograd.objective.likelihood import Evaluation, Halves
from cryograd.objective.shrinkage import noise_to_signal, wiener_precision
from cryograd.prepare import AbinitioSetup, prepare
from cryograd.solvers.protocol import Local
from cryograd.solvers.schedule import Step
from cryograd.state import Candidate, State

# Weight of a minibatch in the running evidence of a start.
EVIDENCE_RATE = 0.3
# Judgements on the held-out images without a new least error after which a run at its final radius ends.
PATIENCE = 4


def abinitio(
    particles: Particles,
    config: Abinitio,
    resume: State | None = None,
    reading: Callable[[int, int], None] | None = None,
) -> Iterator[State]:
    """Reconstruct a map from a random start.

    Parameters
    ----------
    particles
        The images and their CTFs; poses are not looked at.
    config
        Options.
    resume
        A state to go on from.
    reading
        Called with the number of images read and the number of all.

    Yields
    ------
    State
        After every iteration. The last one has the final map and a pose for every particle.

    Raises
    ------
    CryogradError
        An image, the mask or an option does not fit.
    """
    setup, start = prepare(particles, config, reading)
    state = start if resume is None else resume.to(setup.images.device)
    while state.iteration < setup.plan.total:
        began = time.perf_counter()
        step = setup.plan[state.iteration]
        state = _assign_poses(setup, state, step) if step.stage == "poses" else _optimise(setup, state, step)
        seconds = time.perf_counter() - began
        state.history[-1]["seconds"] = {step.stage: seconds}
        yield state


def _optimise(setup: AbinitioSetup, state: State, step: Step) -> State:
    """One minibatch: every start that is left takes a step, and the worst may be dropped."""
    likelihood = setup.likelihood(step.radius)
    indices, number = minibatch(setup, state, step.images)
    batch, loaded = whitened(setup, state, indices, likelihood.disc)
    search = poses_at(setup, state, indices, step.radius)
    upper = torch.as_tensor(setup.half[indices], device=state.mask.device)

    def advance(candidate: Candidate) -> tuple[Candidate, Evaluation]:
        halves = None if candidate.difference is None else Halves(candidate.difference, upper)
        found = likelihood.evaluate(candidate.volume, batch, search, halves)
        local = near(setup, state, step, likelihood, found, batch, number)
        evidence = _running_evidence(candidate.evidence, -found.value / len(likelihood.disc))
        return replace(_advance(setup, candidate, found, local, state.mask), evidence=evidence), found

    moved = [advance(candidate) for candidate in state.candidates]
    moved.sort(key=lambda pair: -pair[0].evidence)
    best = moved[0][1]
    noise = renoised(setup, state, best, loaded, likelihood.disc)
    candidates = tuple(candidate for candidate, _ in moved[: step.candidates])
    table = state.posterior.updated(indices, best.poses)
    if best.marginals:
        state = replace(state, memory=state.memory.updated(indices, best.marginals))
    following = state.following(step, best.poses, candidates, noise, table, len(indices))
    following.history[-1]["points"] = best.points
    return _judged(setup, following, step)


def _advance(
    setup: AbinitioSetup, candidate: Candidate, found: Evaluation, local: Local, mask: Tensor
) -> Candidate:
    """Take the solver's step, and apply mask and prior."""
    difference, difference_solver = candidate.difference, candidate.difference_solver
    # Once images have poses of their own, halves of them say how much of the map is noise.
    if difference is not None and found.slope is not None:
        ratio = noise_to_signal(candidate.volume, difference)
        local = replace(local, precision=partial(wiener_precision, ratio))
        apart = setup.solver.step(difference_solver, difference, replace(local, gradient=found.slope))
        difference, difference_solver = apart.volume * mask, apart.state
    move = setup.solver.step(candidate.solver, candidate.volume, local)
    volume = move.volume * mask
    # The loss is a mean over images. Voxels finer than the resolution are not independent: the prior counts
    # resolution elements.
    elements = 4.0 / 3.0 * math.pi * (local.radius / len(volume)) ** 3
    prior = setup.prior.gradient(volume) * (elements / len(setup.train))
    volume = setup.prior.project(volume - move.length * prior)
    return Candidate(volume, move.state, difference, difference_solver, candidate.evidence)


def _judged(setup: AbinitioSetup, state: State, step: Step) -> State:
    """The state with the error on the held-out images, at the run's end if that has stalled."""
    if not len(setup.held_out) or state.iteration % setup.plan.judged_every:
        return state
    likelihood = setup.likelihood(step.radius)
    batch, _ = whitened(setup, state, setup.held_out, likelihood.disc)
    # Always the same grid, so that the errors can be compared.
    poses = likelihood.poses(state.volume, batch, search_at(setup, step.radius, 0))
    state.history[-1]["held_out_error"] = -float(poses.log_evidence.double().mean())
    errors = [
        row["held_out_error"] for row in state.history if row["stage"] == "settle" and "held_out_error" in row
    ]
    if len(errors) > PATIENCE and min(errors[-PATIENCE:]) >= min(errors[:-PATIENCE]):
        return replace(state, iteration=setup.plan.optimisation)
    return state


def _running_evidence(before: float, now: float) -> float:
    """Running mean of the log evidence, per coefficient so that it does not jump when the radius grows."""
    return (1.0 - EVIDENCE_RATE) * before + EVIDENCE_RATE * now if math.isfinite(before) else now


def _assign_poses(setup: AbinitioSetup, state: State, step: Step) -> State:
    """Poses of the next particles at the final map, which does not change any more."""
    likelihood = setup.likelihood(step.radius)
    first = (state.iteration - setup.plan.optimisation) * step.images
    indices = np.arange(first, min(first + step.images, len(setup.images.particles)))
    batch, _ = whitened(setup, state, indices, likelihood.disc)
    # The unturned grid of one number: the last pass does not depend on how it is divided.
    search = search_at(setup, step.radius, setup.plan.optimisation)
    poses = likelihood.poses(state.volume, batch, search)
    table = state.posterior.updated(indices, poses)
    return state.following(step, poses, state.candidates, state.noise, table, 0)
