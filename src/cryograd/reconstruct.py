"""The loop: random starts, frequency march, last pass for the poses. Read this first.

`abinitio` is a generator of states. It computes; the shell around it saves, shows and reports.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio
from cryograd.data.cache import ImageCache, Loaded, build_cache
from cryograd.data.density import resample_map
from cryograd.data.mrc import read_map
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.fourier import HalfDisc, lowpass_volume
from cryograd.model.blobs import random_blobs
from cryograd.model.noise import Noise, noise_from_corners
from cryograd.model.projection import slice_points
from cryograd.model.symmetry import group_matrices
from cryograd.objective.likelihood import Evaluation, Level, MarginalLikelihood, Search
from cryograd.objective.priors import Exponential, Improper, Prior
from cryograd.pose.posterior import Batch, Poses
from cryograd.pose.product import scoring_precision
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, angular_spacing
from cryograd.rotations import random_rotations
from cryograd.solvers.preconditioned import Preconditioned, PreconditionedState
from cryograd.solvers.schedule import March, Step
from cryograd.validation.fsc import soft_sphere

# Radii in Fourier pixels: of the exhaustive search, of the choice between starts, and the finest one.
COARSE_RADIUS, SELECT_RADIUS, FINEST_RADIUS = 10.0, 8.0, 28.0
# Cells of the shared grid per angle atan(1/r), and shift spacings per resolution element.
ANGLE_CELLS, SHIFT_CELLS = 1.25, 3.2
# Width of the shifts' prior as a fraction of the largest shift.
SHIFT_SIGMA = 0.45
# Å by which the mask of an image is wider than the particle once its centre is known.
MASK_MARGIN = 10.0
# Weight of a minibatch in the running noise variance and in the running evidence of a start.
NOISE_RATE, EVIDENCE_RATE = 0.2, 0.3


@dataclass(frozen=True)
class Candidate:
    """One start: its volume, what the solver remembers, and its running mean log evidence."""

    volume: Tensor
    solver: PreconditionedState
    evidence: float


@dataclass(frozen=True)
class PosteriorTable:
    """The latest posterior of every particle.

    Parameters
    ----------
    rotations, shifts
        Most probable pose: matrices (n, 3, 3), origin offsets (n, 2) in Å.
    log_evidence, entropy, max_probability
        Shape (n,); the entropy in nats.
    visited
        Whether the particle has been in a minibatch, shape (n,).
    """

    rotations: np.ndarray
    shifts: np.ndarray
    log_evidence: np.ndarray
    entropy: np.ndarray
    max_probability: np.ndarray
    visited: np.ndarray

    @staticmethod
    def empty(n: int) -> "PosteriorTable":
        """Table of particles that have not been visited."""
        rotations = np.broadcast_to(np.eye(3), (n, 3, 3)).copy()
        zeros = [np.zeros(n) for _ in range(3)]
        return PosteriorTable(rotations, np.zeros((n, 2)), *zeros, np.zeros(n, dtype=bool))

    def updated(self, indices: np.ndarray, poses: Poses) -> "PosteriorTable":
        """The table with new rows for some particles."""
        columns = {name: getattr(self, name).copy() for name in vars(self)}
        for name, values in vars(poses).items():
            columns[name][indices] = values.double().cpu().numpy()
        columns["visited"][indices] = True
        return PosteriorTable(**columns)


@dataclass(frozen=True)
class State:
    """A run after an iteration.

    Parameters
    ----------
    iteration, total_iterations
        Iterations done, and to be done in all.
    stage
        ``starts``, ``march``, ``settle`` or ``poses``.
    radius, resolution
        Fourier pixels; Å.
    candidates
        The starts that are left, the one of most evidence first.
    mask
        Solvent mask (W, W, W) of the working box.
    extent
        Side of the working box in Å.
    noise
        Noise variance.
    images_drawn
        Images that the minibatches have drawn so far: the place in the endless shuffled sequence.
    history
        One row an iteration, JSON-able.
    posterior
        The latest posterior of every particle.
    symmetry
        Point group.
    """

    iteration: int
    total_iterations: int
    stage: str
    radius: float
    resolution: float
    candidates: tuple[Candidate, ...]
    mask: Tensor
    extent: float
    noise: Noise
    images_drawn: int
    history: list[dict[str, Any]]
    posterior: PosteriorTable
    symmetry: str

    @property
    def volume(self) -> Tensor:
        """The best start's volume in the working box, shape (W, W, W)."""
        return self.candidates[0].volume

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain data, for `torch.save`."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str | list)}
        return plain | {
            "candidates": [
                {"volume": c.volume.cpu(), "solver": c.solver.state_dict(), "evidence": c.evidence}
                for c in self.candidates
            ],
            "mask": self.mask.cpu(),
            "noise": self.noise.variance.cpu(),
            "posterior": {k: torch.from_numpy(v) for k, v in vars(self.posterior).items()},
        }

    @staticmethod
    def from_state_dict(saved: dict[str, Any]) -> "State":
        """Undo `state_dict`, on the CPU."""
        candidates = tuple(
            Candidate(c["volume"], PreconditionedState(**c["solver"]), c["evidence"])
            for c in saved["candidates"]
        )
        posterior = PosteriorTable(**{k: v.numpy() for k, v in saved["posterior"].items()})
        restored = {"candidates": candidates, "noise": Noise(saved["noise"]), "posterior": posterior}
        return State(**(saved | restored))

    def to(self, device: torch.device) -> "State":
        """The state with its tensors on a device."""
        candidates = tuple(
            Candidate(
                c.volume.to(device),
                PreconditionedState(
                    **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(c.solver).items()}
                ),
                c.evidence,
            )
            for c in self.candidates
        )
        noise = Noise(self.noise.variance.to(device))
        return replace(self, candidates=candidates, mask=self.mask.to(device), noise=noise)


@dataclass(frozen=True)
class Setup:
    """What a run derives from its data and options and never changes.

    Parameters
    ----------
    images
        Images at the working sampling.
    plan
        What each iteration does.
    max_shift
        Å.
    solver, prior, seed
        As chosen.
    group
        Matrices of the point group.
    precision
        Of the exhaustive products.
    """

    images: ImageCache
    plan: March
    max_shift: float
    solver: Preconditioned
    prior: Prior
    seed: int
    symmetry: str
    group: np.ndarray
    precision: str

    def likelihood(self, radius: float) -> MarginalLikelihood:
        """The likelihood at a radius."""
        return MarginalLikelihood(self.images.size, self.images.extent, radius, self.symmetry, self.precision)


def abinitio(particles: Particles, config: Abinitio, resume: State | None = None) -> Iterator[State]:
    """Reconstruct a map from a random start.

    Parameters
    ----------
    particles
        The images and their CTFs; poses are not looked at.
    config
        Options.
    resume
        A state to go on from.

    Yields
    ------
    State
        After every iteration. The last one has the final map and a pose for every particle.

    Raises
    ------
    CryogradError
        An image, the mask or an option does not fit.
    """
    setup, start = prepare(particles, config)
    state = start if resume is None else resume.to(setup.images.device)
    while state.iteration < setup.plan.total:
        began = time.perf_counter()
        step = setup.plan[state.iteration]
        state = _assign_poses(setup, state, step) if step.stage == "poses" else _optimise(setup, state, step)
        seconds = time.perf_counter() - began
        state.history[-1]["seconds"] = {step.stage: seconds}
        yield state


def prepare(particles: Particles, config: Abinitio) -> tuple[Setup, State]:
    """Read the images and make everything that the first iteration needs."""
    device = _device(config.device)
    extent = max(o.box_size * o.pixel_size for o in particles.optics)
    nyquist = max(o.pixel_size for o in particles.optics) * 2.0
    finest = _final_radius(extent, nyquist, config)
    size = _working_size(finest, particles)
    diameter = config.particle_diameter or 0.9 * extent
    images = build_cache(particles, size, extent, diameter, device)
    radius = 0.5 * diameter / extent * size
    mask = _solvent_mask(config.mask, size, extent, radius).to(device)
    noise = _corner_noise(images, radius)
    plan = March(
        len(particles),
        extent / config.start_resolution,
        min(max(SELECT_RADIUS, extent / config.start_resolution), finest),
        finest,
        minibatch=config.minibatch,
    )
    max_shift = 0.2 * extent if config.max_shift is None else config.max_shift
    group = group_matrices(config.symmetry)
    setup = Setup(
        images,
        plan,
        max_shift,
        Preconditioned(),
        Improper(),
        config.seed,
        config.symmetry,
        group,
        scoring_precision(device.type),
    )
    candidates = tuple(_random_start(setup, noise, mask, radius, number) for number in range(plan.candidates))
    if config.prior == "exponential":
        scale = float(np.mean([float(c.volume[mask > 0.5].square().mean().sqrt()) for c in candidates]))
        setup = replace(setup, prior=Exponential(scale, config.prior_weight))
    table = PosteriorTable.empty(len(particles))
    state = State(
        0,
        plan.total,
        "starts",
        plan.start_radius,
        extent / plan.start_radius,
        candidates,
        mask,
        extent,
        noise,
        0,
        [],
        table,
        config.symmetry,
    )
    return setup, state


def full_volume(state: State, particles: Particles) -> tuple[np.ndarray, float]:
    """The map at the sampling of the first optics group.

    Returns
    -------
    tuple
        Density (L, L, L), float32, whose projections are sums of voxels, and its pixel size in Å.
    """
    optics = particles.optics[0]
    size = state.volume.shape[-1]
    likelihood = MarginalLikelihood(size, state.extent, state.radius, state.symmetry)
    volume = likelihood.symmetrizer.forward(state.volume)
    # What lies beyond the march's radius comes from positivity, not from the images.
    volume = lowpass_volume(volume, min(state.radius + 1.0, size / 2 - 1.0))
    pixel = state.extent / size
    density = resample_map(volume.cpu().numpy(), pixel, optics.box_size, optics.pixel_size)
    return density * np.float32(optics.pixel_size / pixel), optics.pixel_size


def _optimise(setup: Setup, state: State, step: Step) -> State:
    """One minibatch: every start that is left takes a step, and the worst may be dropped."""
    likelihood = setup.likelihood(step.radius)
    indices = _minibatch(setup, state.images_drawn, step.images)
    batch, loaded = _whitened(setup, state, indices, likelihood.disc)
    search = _search(setup, step.radius, state.iteration)
    moved = [_advance(setup, likelihood, c, batch, search, step, state.mask) for c in state.candidates]
    moved.sort(key=lambda pair: -pair[0].evidence)
    best = moved[0][1]
    noise = state.noise
    if best.residual is not None:
        noise = noise.updated(best.residual, likelihood.disc, loaded.group, loaded.area, NOISE_RATE)
    candidates = tuple(candidate for candidate, _ in moved[: step.candidates])
    table = state.posterior.updated(indices, best.poses)
    return _following(state, step, best.poses, candidates, noise, table, len(indices))


def _advance(
    setup: Setup,
    likelihood: MarginalLikelihood,
    candidate: Candidate,
    batch: Batch,
    search: Search,
    step: Step,
    mask: Tensor,
) -> tuple[Candidate, Evaluation]:
    """Evaluate the likelihood, step along its preconditioned gradient, and apply mask and prior."""
    found = likelihood.evaluate(candidate.volume, batch, search)
    volume, solver = setup.solver.step(
        candidate.solver, candidate.volume, found.gradient, found.curvature, step.radius, step.rate
    )
    volume = _apply_prior(setup, volume * mask, found.curvature, step.rate)
    # Per coefficient, so that the running mean does not jump when the radius grows.
    evidence = -found.value / len(likelihood.disc)
    if math.isfinite(candidate.evidence):
        evidence = (1.0 - EVIDENCE_RATE) * candidate.evidence + EVIDENCE_RATE * evidence
    return Candidate(volume, solver, evidence), found


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
    grid = likelihood.transform(state.volume)
    # The unturned grid of one number: the last pass does not depend on how it is divided.
    _, poses, _ = likelihood.infer(grid, batch, _search(setup, step.radius, setup.plan.optimisation))
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
        "noise": float(noise.variance[:, int(step.radius)].mean() / state.noise.variance.shape[1] ** 2 / 4),
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
    coarse = min(radius, COARSE_RADIUS)
    rotations = RotationGrid.covering(ANGLE_CELLS * angular_spacing(coarse), setup.group).turned(rng)
    sigma = max(SHIFT_SIGMA * setup.max_shift, setup.images.extent / setup.images.size)
    spacing = setup.images.extent / coarse / SHIFT_CELLS
    shifts = ShiftGrid.covering(spacing, setup.max_shift, sigma, rng.uniform(-0.5, 0.5, 2))
    if radius <= COARSE_RADIUS:
        levels = ()
    elif radius <= 17.0:
        levels = (Level(32, 8, radius),)
    else:
        levels = (Level(32, 8, 16.0), Level(12, 8, radius))
    return Search(coarse, rotations, shifts, levels)


def _random_start(setup: Setup, noise: Noise, mask: Tensor, radius: float, number: int) -> Candidate:
    """A random volume scaled so that its projections have half the amplitude of the images' signal."""
    rng = np.random.default_rng([setup.seed, 3, number])
    blobs = random_blobs(setup.images.size, radius, rng)
    volume = torch.as_tensor(blobs).to(mask) * mask
    likelihood = setup.likelihood(setup.plan.start_radius)
    n = min(500, len(setup.images.particles))
    loaded = setup.images.load(np.arange(n), likelihood.disc, np.zeros((n, 2)), np.full(n, np.inf))
    rotations = torch.as_tensor(random_rotations(n, rng)).to(mask)
    points = slice_points(likelihood.disc, mask.device)
    slices = likelihood.projector.sample(likelihood.transform(volume), rotations, points)
    variance = noise.on_disc(likelihood.disc, loaded.group)
    signal = float((loaded.images.abs().square() / variance - 1.0).mean())
    model = float(((loaded.ctf * slices).abs().square() / variance).mean())
    # Images without excess power at low resolution still get a start of some size.
    volume = volume * (0.5 * math.sqrt(max(signal, 1e-3) / model))
    return Candidate(volume, setup.solver.init(volume), -math.inf)


def _corner_noise(images: ImageCache, radius: float) -> Noise:
    """Noise variance from what lies outside the particles, or at least from the corners."""
    limit = min(radius, images.size / 2 - 4.0)
    sample = np.linspace(0, len(images.images) - 1, min(2000, len(images.images))).astype(int)
    values = torch.as_tensor(images.images[sample]).to(images.device).float()
    group = torch.as_tensor(images.particles.optics_index[sample], device=images.device)
    return noise_from_corners(values, group, len(images.particles.optics), limit)


def _final_radius(extent: float, nyquist: float, config: Abinitio) -> float:
    """Radius at the end of the march, in Fourier pixels."""
    if config.max_resolution is not None:
        if config.max_resolution < nyquist:
            raise CryogradError(
                f"--max-resolution {config.max_resolution:g} Å is finer than the images' Nyquist limit",
                config.particles,
                f"give {nyquist:.2f} Å or more",
            )
        finest = extent / config.max_resolution
    else:
        finest = FINEST_RADIUS
    finest = min(finest, 0.9 * extent / nyquist)
    if finest < extent / config.start_resolution:
        raise CryogradError(
            f"--start-resolution {config.start_resolution:g} Å is finer than the finest resolution used",
            config.particles,
            f"give more than {extent / finest:.2f} Å",
        )
    return finest


def _working_size(radius: float, particles: Particles) -> int:
    """Smallest box whose transform is quick and that holds the radius with a margin; at most the images'."""
    largest = max(o.box_size for o in particles.optics)
    quick = [2**a * 3**b for a in range(1, 12) for b in range(3) if 2**a * 3**b >= 2.2 * radius + 2.0]
    return min(largest, *quick)


def _solvent_mask(path: Path | None, size: int, extent: float, radius: float) -> Tensor:
    """The given mask at the working sampling, or a soft sphere."""
    if path is None:
        return torch.as_tensor(np.asarray(soft_sphere(size, radius, 5.0)), dtype=torch.float32)
    mask, pixel = read_map(path)
    if abs(mask.shape[0] * pixel - extent) > 0.01 * extent:
        raise CryogradError(
            f"the mask's box is {mask.shape[0] * pixel:.1f} Å, the particles' is {extent:.1f} Å",
            path,
            "give a mask in the particles' box",
        )
    return torch.as_tensor(resample_map(mask, pixel, size, extent / size)).clamp(0.0, 1.0)


def _device(name: str) -> torch.device:
    """The device that an option names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise CryogradError("there is no CUDA device", "--device cuda", "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
