"""The loop: random starts, frequency march, last pass for the poses. Read this first.

`abinitio` is a generator of states. It computes; the shell around it saves, shows and reports.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.minibatch import minibatch, near, poses_at, renoised, running_rate, search_at, whitened
from cryograd.objective.likelihood import Evaluation, Halves, MarginalLikelihood
from cryograd.objective.mixture import Mixture, mixture
from cryograd.objective.shrinkage import noise_to_signal, wiener_precision
from cryograd.pose.inference import Search
from cryograd.pose.posterior import NEGLIGIBLE, Batch, Poses
from cryograd.prepare import AbinitioSetup, prepare
from cryograd.solvers.schedule import Step
from cryograd.state import Candidate, State
from cryograd.steps.protocol import Local

# Weight of a minibatch in the running evidence of a start.
EVIDENCE_RATE = 0.3
# Share of a minibatch that a class has at least.
LEAST_SHARE = 0.005
# Judgements on the held-out images without a new least error after which a run at its final radius ends.
PATIENCE = 4
# A candidate's step on some images, given as a batch, and as which ones of the minibatch they are (B,), bool.
Advance = Callable[[Candidate, Batch, Tensor], tuple[Candidate, Evaluation]]


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


@dataclass(frozen=True)
class Moved:
    """What an iteration makes of the starts or classes, and what these say of its images.

    Parameters
    ----------
    candidates
        As they go on.
    poses, residual, probabilities
        Of each image, under the best start or over all classes; `PosteriorTable.updated` takes the last.
    found
        One candidate's evaluation.
    """

    candidates: tuple[Candidate, ...]
    poses: Poses
    residual: Tensor | None
    probabilities: Tensor | None
    found: Evaluation


def _optimise(setup: AbinitioSetup, state: State, step: Step) -> State:
    """One minibatch: every start that is left, or every class, takes a step."""
    likelihood = setup.likelihood(step.radius)
    indices, number = minibatch(setup, state, step)
    batch, loaded = whitened(setup, state, indices, likelihood.disc)
    search = poses_at(setup, state, indices, step.radius)
    upper = torch.as_tensor(setup.half[indices], device=state.mask.device)

    def advance(candidate: Candidate, mine: Batch, which: Tensor) -> tuple[Candidate, Evaluation]:
        halves = None if candidate.difference is None else Halves(candidate.difference, upper[which])
        found = likelihood.evaluate(candidate.volume, mine, search, halves)
        local = near(setup, state, step, likelihood, found, mine, number)
        return _advance(setup, candidate, found, local, state.mask), found

    if setup.plan.classes > 1:
        # Poses are drawn for one map only.
        assert isinstance(search, Search)
        classes = _mixture(state, likelihood, batch, search, step.temperature, step.even)
        moved = _share(state.candidates, batch, classes, advance, running_rate(setup))
    else:
        moved = _compete(state.candidates, batch, advance, len(likelihood.disc), step.candidates)
    noise = renoised(setup, state, moved.residual, loaded, likelihood.disc)
    table = state.posterior.updated(indices, moved.poses, moved.probabilities)
    if moved.found.marginals:
        state = replace(state, memory=state.memory.updated(indices, moved.found.marginals))
    following = state.following(step, moved.poses, moved.candidates, noise, table, len(indices))
    following.history[-1]["points"] = moved.found.points
    if moved.probabilities is not None:
        following.history[-1]["shares"] = [candidate.share for candidate in moved.candidates]
    return _judged(setup, following, step)


def _compete(
    starts: tuple[Candidate, ...], batch: Batch, advance: Advance, coefficients: int, survivors: int
) -> Moved:
    """Every start takes a step on all images; those of least evidence are dropped."""
    every = torch.ones(len(batch), dtype=torch.bool, device=batch.images.device)
    moved = []
    for start in starts:
        candidate, found = advance(start, batch, every)
        evidence = _running_evidence(candidate.evidence, -found.value / coefficients)
        moved.append((replace(candidate, evidence=evidence), found))
    moved.sort(key=lambda pair: -pair[0].evidence)
    best = moved[0][1]
    return Moved(tuple(c for c, _ in moved[:survivors]), best.poses, best.residual, None, best)


def _share(
    classes: tuple[Candidate, ...], batch: Batch, posterior: Mixture, advance: Advance, rate: float
) -> Moved:
    """Every class takes a step on the images that may belong to it, each with its probability."""
    moved, evaluations, residual = [], [], None
    for candidate, probability in zip(classes, posterior.probabilities, strict=True):
        which = probability >= probability.max().clamp(max=NEGLIGIBLE)
        share = float(probability.mean())
        # An empty class goes on with the images that are the nearest to it.
        mine = batch.counted(probability * max(1.0, LEAST_SHARE / share), which)
        candidate, found = advance(candidate, mine, which)
        moved.append(replace(candidate, share=(1.0 - rate) * candidate.share + rate * share))
        evaluations.append(found)
        if found.residual is not None:
            if residual is None:
                residual = found.residual.new_zeros(len(batch), found.residual.shape[1])
            residual[which] += probability[which, None].to(residual) * found.residual
    return Moved(tuple(moved), posterior.poses, residual, posterior.probabilities, evaluations[0])


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
    # Classes share its strength as they share the images: were it the same in all, a class that loses images
    # would lose density for that, and more images for want of density.
    strength = setup.plan.classes * candidate.share
    prior = setup.prior.gradient(volume) * (strength * elements / len(setup.train))
    volume = setup.prior.project(volume - move.length * prior)
    return replace(
        candidate,
        volume=volume,
        solver=move.state,
        difference=difference,
        difference_solver=difference_solver,
    )


def _judged(setup: AbinitioSetup, state: State, step: Step) -> State:
    """The state with the error on the held-out images, at the run's end if that has stalled."""
    if not len(setup.held_out) or state.iteration % setup.plan.judged_every:
        return state
    likelihood = setup.likelihood(step.radius)
    batch, _ = whitened(setup, state, setup.held_out, likelihood.disc)
    # Always the same grid, so that the errors can be compared.
    poses = _mixture(state, likelihood, batch, search_at(setup, step.radius, 0)).poses
    state.history[-1]["held_out_error"] = -float(poses.log_evidence.double().mean())
    errors = [
        row["held_out_error"] for row in state.history if row["stage"] == "settle" and "held_out_error" in row
    ]
    if len(errors) > PATIENCE and min(errors[-PATIENCE:]) >= min(errors[:-PATIENCE]):
        return replace(state, iteration=setup.plan.optimisation)
    return state


def _mixture(
    state: State,
    likelihood: MarginalLikelihood,
    batch: Batch,
    search: Search,
    temperature: float = 1.0,
    even: bool = False,
) -> Mixture:
    """Classes and poses of images; of one start all belong to it."""
    volumes, shares = zip(*((c.volume, c.share) for c in state.candidates), strict=True)
    return mixture(likelihood, volumes, shares, batch, search, temperature, even)


def _running_evidence(before: float, now: float) -> float:
    """Running mean of the log evidence, per coefficient so that it does not jump when the radius grows."""
    return (1.0 - EVIDENCE_RATE) * before + EVIDENCE_RATE * now if math.isfinite(before) else now


def _assign_poses(setup: AbinitioSetup, state: State, step: Step) -> State:
    """Poses of the next particles at the final map, which does not change any more."""
    likelihood = setup.likelihood(step.radius)
    first = step.number * step.images
    indices = np.arange(first, min(first + step.images, len(setup.images.particles)))
    batch, _ = whitened(setup, state, indices, likelihood.disc)
    # The unturned grid of one number: the last pass does not depend on how it is divided.
    search = search_at(setup, step.radius, setup.plan.optimisation)
    found = _mixture(state, likelihood, batch, search)
    table = state.posterior.updated(indices, found.poses, found.probabilities)
    return state.following(step, found.poses, state.candidates, state.noise, table, 0)
