"""The loop: random starts, frequency march, last pass for the poses. Read this first.

`abinitio` is a generator of states. It computes; the shell around it saves, shows and reports.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio
from cryograd.data.cache import Loaded
from cryograd.data.particles import Particles
from cryograd.fourier import HalfDisc
from cryograd.model.noise import Noise
from cryograd.objective.likelihood import Evaluation, MarginalLikelihood
from cryograd.objective.shrinkage import SpectralPrior
from cryograd.pose.inference import Level, Search
from cryograd.pose.posterior import Batch, Poses
from cryograd.pose.quadrature import PoseGrid, RotationGrid, ShiftGrid, angular_spacing
from cryograd.pose.sampling import Sampling
from cryograd.prepare import Setup, prepare
from cryograd.solvers.schedule import Step
from cryograd.state import Candidate, PosteriorTable, State

# Radius in Fourier pixels up to which the pose search is exhaustive.
COARSE_RADIUS = 8.0
# Radius up to which one refinement is enough.
MIDDLE_RADIUS = 14.0
# Side of the shared grid's cells in angles atan(1/r), and shift spacings per resolution element; beyond the
# middle radius, where two refinements have to reach the angles that the final radius needs, they are finer.
ANGLE_CELLS, SHIFT_CELLS = 1.5, 2.5
FINE_ANGLE_CELLS, FINE_SHIFT_CELLS = 1.25, 3.2
# Width of the shifts' prior as a fraction of the largest shift.
SHIFT_SIGMA = 0.45
# Å by which the mask of an image is wider than the particle once its centre is known.
MASK_MARGIN = 10.0
# Weight of a minibatch in the running noise variance and in the running evidence of a start.
NOISE_RATE, EVIDENCE_RATE = 0.2, 0.3


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


def _optimise(setup: Setup, state: State, step: Step) -> State:
    """One minibatch: every start that is left takes a step, and the worst may be dropped."""
    likelihood = setup.likelihood(step.radius)
    indices = _minibatch(setup, state.images_drawn, step.images)
    batch, loaded = _whitened(setup, state, indices, likelihood.disc)
    search = _drawn(setup, state, indices, step.radius) or _search(setup, step.radius, state.iteration)
    half = torch.as_tensor(setup.half[indices], device=state.mask.device)
    moved = [_advance(setup, likelihood, c, batch, half, search, step, state.mask) for c in state.candidates]
    moved.sort(key=lambda pair: -pair[0].evidence)
    best = moved[0][1].inference
    noise = state.noise
    if best.residual is not None:
        noise = noise.updated(best.residual, likelihood.disc, loaded.group, loaded.area, NOISE_RATE)
    candidates = tuple(candidate for candidate, _ in moved[: step.candidates])
    table = state.posterior.updated(indices, best.poses)
    if best.marginals:
        state = replace(state, memory=state.memory.updated(indices, best.marginals))
    return _following(state, step, best.poses, candidates, noise, table, len(indices))


def _advance(
    setup: Setup,
    likelihood: MarginalLikelihood,
    candidate: Candidate,
    batch: Batch,
    half: Tensor,
    search: Search | Sampling,
    step: Step,
    mask: Tensor,
) -> tuple[Candidate, Evaluation]:
    """Evaluate the likelihood, step along its preconditioned gradient, and apply mask and prior."""
    found = likelihood.evaluate(candidate.volume, batch, search)
    gradient, curvature = found.gradient, found.curvature
    difference, difference_solver = candidate.difference, candidate.difference_solver
    # Once images have poses of their own, halves of them say how much of the map is noise.
    if found.inference.statistics.image is not None:
        spectral = SpectralPrior.measured(candidate.volume, difference, curvature)
        gradient = gradient + spectral.gradient(candidate.volume)
        curvature = curvature + spectral.precision
        slope = likelihood.difference_gradient(difference, found.inference.statistics, half)
        slope = slope + spectral.gradient(difference)
        difference, difference_solver = setup.solver.step(
            difference_solver, difference, slope, curvature, step.radius, step.rate
        )
    volume, solver = setup.solver.step(
        candidate.solver, candidate.volume, gradient, curvature, step.radius, step.rate
    )
    volume = _apply_prior(setup, volume * mask, found.curvature, step.rate)
    evidence = _running_evidence(candidate.evidence, -found.value / len(likelihood.disc))
    return Candidate(volume, solver, difference * mask, difference_solver, evidence), found


def _running_evidence(before: float, now: float) -> float:
    """Running mean of the log evidence, per coefficient so that it does not jump when the radius grows."""
    return (1.0 - EVIDENCE_RATE) * before + EVIDENCE_RATE * now if math.isfinite(before) else now


def _apply_prior(setup: Setup, volume: Tensor, curvature: Tensor, rate: float) -> Tensor:
    """Step along the prior's gradient, and project onto what the prior allows.

    The step is divided by the mean curvature and not by each frequency's: the prior pushes along frequencies
    that no image measures, DC above all. Voxels finer than the resolution are not independent, so that the
    prior counts resolution elements.
    """
    open_ = curvature > 0
    share = float(open_.double().mean())
    mean = float(curvature[open_].mean())
    step = rate * share / (mean * len(setup.images.particles))
    return setup.prior.project(volume - step * setup.prior.gradient(volume))


def _assign_poses(setup: Setup, state: State, step: Step) -> State:
    """Poses of the next particles at the final map, which does not change any more."""
    likelihood = setup.likelihood(step.radius)
    first = (state.iteration - setup.plan.optimisation) * setup.plan.minibatch
    indices = np.arange(first, min(first + setup.plan.minibatch, len(setup.images.particles)))
    batch, _ = _whitened(setup, state, indices, likelihood.disc)
    # The unturned grid of one number: the last pass does not depend on how it is divided.
    search = _search(setup, step.radius, setup.plan.optimisation)
    poses = likelihood.infer(state.volume, batch, search).poses
    table = state.posterior.updated(indices, poses)
    return _following(state, step, poses, state.candidates, state.noise, table, 0)


def _following(
    state: State,
    step: Step,
    poses: Poses,
    candidates: tuple[Candidate, ...],
    noise: Noise,
    table: PosteriorTable,
    drawn: int,
) -> State:
    """The state after an iteration, with its row in the history."""
    iteration, resolution = state.iteration + 1, state.extent / step.radius
    row = {
        "iteration": iteration,
        "stage": step.stage,
        "radius": step.radius,
        "resolution": resolution,
        "log_evidence": float(poses.log_evidence.double().mean()),
        "entropy": float(poses.entropy.double().mean()),
        "max_probability": float(poses.max_probability.double().mean()),
        "step": step.rate,
        "starts": len(candidates),
        "noise": float(noise.variance[:, int(step.radius)].mean()) / state.volume.shape[-1] ** 2,
    }
    return replace(
        state,
        iteration=iteration,
        stage=step.stage,
        radius=step.radius,
        resolution=resolution,
        candidates=candidates,
        noise=noise,
        images_drawn=state.images_drawn + drawn,
        history=[*state.history, row],
        posterior=table,
    )


def _minibatch(setup: Setup, drawn: int, images: int) -> np.ndarray:
    """The next images of an endless sequence in which every epoch is a new shuffle."""
    n = len(setup.images.particles)
    epochs = range(drawn // n, (drawn + images - 1) // n + 1)
    order = np.concatenate([np.random.default_rng([setup.seed, 1, e]).permutation(n) for e in epochs])
    first = drawn - epochs[0] * n
    return np.unique(order[first : first + images])


def _whitened(setup: Setup, state: State, indices: np.ndarray, disc: HalfDisc) -> tuple[Batch, Loaded]:
    """Load a minibatch and divide it by the noise.

    Masks follow the particles' centres once these are known.
    """
    margins = np.where(state.posterior.visited[indices], MASK_MARGIN, np.inf)
    loaded = setup.images.load(indices, disc, state.posterior.shifts[indices], margins)
    variance = state.noise.on_disc(disc, loaded.group)
    images = loaded.images * variance.rsqrt()
    log_norm = -images.abs().square().sum(dim=1) - torch.log(torch.pi * variance).sum(dim=1)
    return Batch(images, loaded.ctf * variance.rsqrt(), log_norm), loaded


def _search(setup: Setup, radius: float, iteration: int) -> Search:
    """How poses are searched at a radius: exhaustively up to a point, from there on by refining cells."""
    rng = np.random.default_rng([setup.seed, 2, iteration])
    coarse, fine = min(radius, COARSE_RADIUS), radius > MIDDLE_RADIUS
    angle_cells, shift_cells = (FINE_ANGLE_CELLS, FINE_SHIFT_CELLS) if fine else (ANGLE_CELLS, SHIFT_CELLS)
    rotations = RotationGrid.covering(angle_cells * angular_spacing(coarse), setup.group).turned(rng)
    shifts = _shifts(setup, coarse, shift_cells, rng.uniform(-0.5, 0.5, 2))
    if radius <= COARSE_RADIUS:
        levels = ()
    elif fine:
        levels = (Level(48, 8, MIDDLE_RADIUS), Level(12, 8, radius))
    else:
        levels = (Level(48, 8, radius),)
    return Search(coarse, rotations, shifts, levels, None if setup.sampler is None else iteration)


def _drawn(setup: Setup, state: State, indices: np.ndarray, radius: float) -> Sampling | None:
    """Poses drawn for each image of a minibatch.

    None while starts compete, whose posteriors differ; if an image has not been visited since; and as long as
    proposals are uniform, since a sample would save nothing.
    """
    if setup.sampler is None or state.stage == "starts":
        return None
    sampler = setup.sampler
    remembered = [state.memory.recall(i) for i in indices]
    trusted = [seen for seen in remembered if seen is not None and seen.iteration >= sampler.annealing.period]
    if len(trusted) < len(remembered):
        return None
    quadrature = PoseGrid.covering(
        angular_spacing(radius), setup.group, _shifts(setup, radius, FINE_SHIFT_CELLS)
    )
    draws = [
        sampler.draw(seen, quadrature, np.random.default_rng([setup.seed, 4, state.iteration, int(index)]))
        for index, seen in zip(indices, trusted, strict=True)
    ]
    return Sampling(quadrature, draws, state.iteration)


def _shifts(setup: Setup, radius: float, cells: float, offset: np.ndarray | None = None) -> ShiftGrid:
    """Shifts with so many spacings per resolution element of a radius."""
    sigma = max(SHIFT_SIGMA * setup.max_shift, setup.images.extent / setup.images.size)
    return ShiftGrid.covering(setup.images.extent / radius / cells, setup.max_shift, sigma, offset)
