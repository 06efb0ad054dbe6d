"""Refinement from a map to the highest resolution, in two halves that never see each other's images.

`refine` is a generator of states, as `reconstruct.abinitio` is. All that the halves share are the scalars of
one curve, the Fourier shell correlation of their maps: how far to open the spectrum, and how much is noise.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Refine
from cryograd.data.density import resample_map
from cryograd.data.mrc import read_map
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume, radius_grid
from cryograd.minibatch import minibatch, near, poses_at, renoised, whitened
from cryograd.model.symmetry import group_matrices
from cryograd.objective.shrinkage import LARGEST_RATIO, wiener_precision
from cryograd.pose.memory import Memory
from cryograd.pose.product import scoring_precision
from cryograd.pose.proposal import Annealing
from cryograd.pose.sampling import Sampler
from cryograd.rotations import FloatArray
from cryograd.setup import (
    Setup,
    Working,
    corner_noise,
    final_radius,
    partition,
    scaled_to_signal,
    start_resolution,
    working_images,
)
from cryograd.solvers.em import EM
from cryograd.solvers.incremental import Incremental, quadratic_bytes
from cryograd.solvers.preconditioned import Preconditioned
from cryograd.solvers.protocol import Solver
from cryograd.solvers.schedule import Step
from cryograd.state import Candidate, PosteriorTable, State
from cryograd.validation.fsc import fsc

SOLVERS: dict[str, Solver] = {"incremental": Incremental(), "preconditioned": Preconditioned(), "em": EM()}
# Half-map correlation at which a shell counts as resolved, and Fourier pixels beyond the last such shell that
# are open: what they hold is shrunk to what it is worth.
RESOLVED, MARGIN = 0.143, 10.0
# Bytes that the quadratics of all minibatches may take.
MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Halves:
    """A refinement after an iteration.

    Parameters
    ----------
    states
        Of the two halves; each has its own map, noise and poses.
    history
        One row an iteration, JSON-able.
    """

    states: tuple[State, State]
    history: list[dict[str, Any]]

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.states[0].iteration

    @property
    def volume(self) -> Tensor:
        """Mean of the half maps, shape (W, W, W)."""
        return 0.5 * (self.states[0].volume + self.states[1].volume)

    @cached_property
    def correlation(self) -> FloatArray:
        """Correlation of the half maps by shell, shape (W // 2 + 1,); 0 beyond the open radius."""
        first, second = (state.volume.double().cpu().numpy() for state in self.states)
        shells, values = fsc(first, second)
        # What the mask spreads there is the same in both halves and says nothing.
        return np.where(shells <= self.states[0].radius, values, 0.0)

    @property
    def resolved(self) -> int:
        """The last shell before the first that is not resolved."""
        below = np.flatnonzero(self.correlation[1:] < RESOLVED)
        return int(below[0]) if len(below) else len(self.correlation) - 1


@dataclass(frozen=True)
class Plan:
    """How long a refinement is.

    Parameters
    ----------
    passes
        Times that every image is used.
    minibatches
        Iterations of a pass.
    start_radius, final_radius
        Fourier pixels: what the start is cut to, and the last radius.
    falling
        Whether the step size falls harmonically in the last pass, for steps that are no averages themselves.
    """

    passes: float
    minibatches: int
    start_radius: float
    final_radius: float
    falling: bool

    @property
    def total(self) -> int:
        """All iterations."""
        return math.ceil(self.passes * self.minibatches - 1e-9)

    def step(self, halves: Halves, images: int) -> Step:
        """What the next iteration does with a minibatch of so many images."""
        # The halves start from one map: at first they agree as far as it goes.
        reached = self.start_radius if halves.iteration == 0 else max(halves.resolved, self.start_radius)
        radius = min(max(reached + MARGIN, halves.states[0].radius), self.final_radius)
        return Step("refine", radius, self.rate(halves.iteration), images, 1)

    def rate(self, iteration: int) -> float:
        """Step size of an iteration."""
        late = max(0, iteration - max(0, self.total - self.minibatches)) if self.falling else 0
        return 1.0 / (1.0 + 0.3 * late)


def refine(
    particles: Particles, config: Refine, reading: Callable[[int, int], None] | None = None
) -> Iterator[Halves]:
    """Refine a map.

    Parameters
    ----------
    particles
        The images and their CTFs. Half-sets that the file names are kept; poses are not looked at.
    config
        Options.
    reading
        Called with the number of images read and the number of all.

    Yields
    ------
    Halves
        After every iteration.

    Raises
    ------
    CryogradError
        An image, the map, the mask or an option does not fit.
    """
    setups, plan, halves = prepare(particles, config, reading)
    while halves.iteration < plan.total:
        began = time.perf_counter()
        ratio = _noise_to_signal(halves)
        first, second = (
            _advance(setup, state, plan.step(halves, len(setup.partition[0])), ratio)
            for setup, state in zip(setups, halves.states, strict=True)
        )
        halves = Halves((first, second), halves.history)
        row = {
            "iteration": halves.iteration,
            "radius": first.radius,
            "resolved": halves.resolved,
            "images_drawn": first.images_drawn + second.images_drawn,
            "correlation": [round(float(c), 4) for c in halves.correlation],
            "seconds": time.perf_counter() - began,
        }
        halves = replace(halves, history=[*halves.history, row])
        yield halves


def _advance(setup: Setup, state: State, step: Step, ratio: Tensor) -> State:
    """One half after its next minibatch."""
    likelihood = setup.likelihood(step.radius)
    indices, number = minibatch(setup, state, step.images)
    batch, loaded = whitened(setup, state, indices, likelihood.disc)
    found = likelihood.evaluate(state.volume, batch, poses_at(setup, state, indices, step.radius))
    local = near(setup, state, step, likelihood, found, batch, number)
    local = replace(local, precision=partial(wiener_precision, ratio))
    move = setup.solver.step(state.candidates[0].solver, state.volume, local)
    candidate = replace(state.candidates[0], volume=move.volume * state.mask, solver=move.state)
    noise = renoised(setup, state, found, loaded, likelihood.disc)
    table = state.posterior.updated(indices, found.poses)
    if found.marginals:
        state = replace(state, memory=state.memory.updated(indices, found.marginals))
    following = state.following(step, found.poses, (candidate,), noise, table, len(indices))
    following.history[-1]["points"] = found.points
    return following


def _noise_to_signal(halves: Halves) -> Tensor:
    """Ratio of noise to signal of a half map at each coefficient, (W, W, W//2 + 1): (1 − FSC)/FSC."""
    mask = halves.states[0].mask
    correlation = torch.as_tensor(halves.correlation, dtype=mask.dtype, device=mask.device)
    ratio = ((1.0 - correlation) / correlation.clamp(min=1e-6)).clamp(0.0, LARGEST_RATIO)
    shell = radius_grid(len(mask), 3, mask.device).round().long()
    # The corners of the box beyond Nyquist are never open.
    return ratio[shell.clamp(max=len(ratio) - 1)]


def prepare(
    particles: Particles, config: Refine, reading: Callable[[int, int], None] | None = None
) -> tuple[tuple[Setup, Setup], Plan, Halves]:
    """Read the images and the map, and make everything that the first iteration needs."""
    start = particles.extent / start_resolution(particles.extent, config)
    # The working box holds Nyquist's radius and one Fourier pixel more.
    nyquist = particles.extent / particles.nyquist - 1.0
    final = final_radius(particles, config, nyquist, nyquist)
    working = working_images(particles, config, final, reading)
    members = half_sets(particles, config.seed)
    solver = SOLVERS[config.solver]
    minibatches = _minibatches(config, solver, min(map(len, members)), working.images.size, final)
    plan = Plan(config.passes, minibatches, start, final, config.solver == "preconditioned")
    setups = tuple(_half(working, config, solver, mine, plan) for mine in members)
    density = _start(working, config, start)
    states = tuple(_first_state(working, setup, plan, density) for setup in setups)
    return (setups[0], setups[1]), plan, Halves((states[0], states[1]), [])


def _minibatches(config: Refine, solver: Solver, images: int, size: int, radius: float) -> int:
    """Iterations of a pass: fewer than asked for where all minibatches' quadratics took too much memory."""
    if solver.takes == "all":
        return 1
    wanted = math.ceil(images / config.minibatch)
    if not isinstance(solver, Incremental):
        return wanted
    # Two halves, and a sum in each.
    most = int(MEMORY_BYTES // (2 * quadratic_bytes(size, radius))) - 1
    return max(1, min(wanted, most))


def half_sets(particles: Particles, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Particles of the two half-sets: those that the file names, or two random halves."""
    half = particles.half_set
    if half is None:
        half = 1 + np.random.default_rng([seed, 5]).permutation(len(particles)) % 2
    first, second = (np.flatnonzero(half == number) for number in (1, 2))
    if len(first) == 0 or len(second) == 0 or len(first) + len(second) < len(particles):
        raise CryogradError(
            "the half-sets are not 1 and 2 with particles in both",
            particles.source,
            "correct or remove the column rlnRandomSubset",
        )
    return first, second


def _half(working: Working, config: Refine, solver: Solver, mine: np.ndarray, plan: Plan) -> Setup:
    group = group_matrices(config.symmetry)
    return Setup(
        working.images,
        working.max_shift,
        solver,
        config.seed,
        config.symmetry,
        group,
        scoring_precision(working.images.device.type),
        Sampler(Annealing(period=0), config.samples, group) if config.proposal == "importance" else None,
        mine,
        partition(mine, plan.minibatches, config.seed),
        False,
    )


def _start(working: Working, config: Refine, radius: float) -> Tensor:
    """The given map at the working sampling, low-pass filtered."""
    density, pixel = read_map(config.volume)
    size, extent = working.images.size, working.images.extent
    if abs(len(density) * pixel - extent) > 0.01 * extent:
        raise CryogradError(
            f"the map's box is {len(density) * pixel:.1f} Å, the particles' is {extent:.1f} Å",
            config.volume,
            "give a map in the particles' box",
        )
    resampled = resample_map(density, pixel, size, extent / size)
    volume = lowpass_volume(torch.as_tensor(resampled).to(working.mask), radius) * working.mask
    if not volume.any():
        raise CryogradError("the map is empty inside the mask", config.volume, "give a map with density")
    return volume


def _first_state(working: Working, setup: Setup, plan: Plan, density: Tensor) -> State:
    """The map scaled to a half's own images, and the noise in them."""
    n, extent = len(working.images.particles), working.images.extent
    noise = corner_noise(working.images, working.radius, setup.train)
    rng = np.random.default_rng([setup.seed, 3])
    volume = scaled_to_signal(setup, noise, density, plan.start_radius, rng)
    return State(
        0,
        plan.total,
        "refine",
        plan.start_radius,
        extent / plan.start_radius,
        (Candidate(volume, setup.solver.init(volume), None, None, -math.inf),),
        working.mask,
        extent,
        noise,
        0,
        [],
        PosteriorTable.empty(n),
        setup.symmetry,
        Memory.empty(n if setup.sampler is not None else 0),
    )
