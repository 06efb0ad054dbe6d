"""What a refinement in two half-sets derives from its input, and what it is after an iteration."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Refine
from cryograd.data.density import resample_map
from cryograd.data.mrc import read_map
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume, resize_transform, resize_volume
from cryograd.half_sets import check
from cryograd.model.symmetry import group_matrices
from cryograd.pose.memory import Memory
from cryograd.pose.product import scoring_precision
from cryograd.pose.proposal import Annealing
from cryograd.pose.sampling import Sampler
from cryograd.pose.seeding import seeded_memory
from cryograd.posterior_table import PosteriorTable
from cryograd.rotations import FloatArray
from cryograd.setup import (
    Setup,
    Working,
    corner_noise,
    partition,
    scaled_to_signal,
    start_resolution,
    working_images,
)
from cryograd.solvers import registry
from cryograd.solvers.incremental import IncrementalState
from cryograd.solvers.schedule import Step
from cryograd.state import Candidate, State
from cryograd.steps.protocol import Solver
from cryograd.steps.state import resized as resized_state

# Half-map correlation at which a shell counts as resolved. Shells beyond the last such one are open too, for
# so many Fourier pixels and up to so many times its radius: what they hold is shrunk to what it is worth.
RESOLVED, MARGIN, GROWTH = 0.143, 10.0, 1.3
# Standard deviations of the correlation of noise that a resolved shell is above, and the most that is asked.
SIGNIFICANT, ENOUGH = 2.0, 0.5
# Width in Fourier pixels of the edge at which maps are cut.
EDGE = 2.0
# Of the prior of an image's scale around 1.
SCALE_WIDTH = 0.25
# Bytes that the quadratics of all minibatches may take.
MEMORY_BYTES = 2 * 2**30
# Images of a half-set whose poses the last pass finds at a time, for each voxel of the box's side: what is
# done once for all of them takes as long as 400 in 256 voxels, and grows by one power more than they.
CHUNK = 8
# Iterations that a refinement has at least where memory allows few minibatches.
LEAST_STEPS = 10


@dataclass(frozen=True)
class Halves:
    """A refinement after an iteration.

    Parameters
    ----------
    states
        Of the two halves; each has its own map, noise and poses.
    start_radius
        Fourier pixels up to which both start from one map.
    history
        One row an iteration, JSON-able.
    """

    states: tuple[State, State]
    start_radius: float
    history: list[dict[str, Any]]

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.states[0].iteration

    @property
    def total_iterations(self) -> int:
        """Iterations to be done in all."""
        return self.states[0].total_iterations

    @property
    def stage(self) -> str:
        """``refine``, ``ctf`` or ``poses``."""
        return self.states[0].stage

    @property
    def resolution(self) -> float:
        """Å that the half maps have reached."""
        return self.states[0].extent / max(self.resolved, self.start_radius)

    @property
    def volume(self) -> Tensor:
        """Mean of the half maps, of their shape."""
        return 0.5 * (self.states[0].volume + self.states[1].volume)

    @cached_property
    def correlation(self) -> FloatArray:
        """Correlation of the half maps by shell, shape (W // 2 + 1,), which is all that they share.

        W is the images' box; the maps' may be smaller.
        """
        if self.history:
            return np.array(self.history[-1]["correlation"])
        # They start from one map.
        shells = np.arange(self.states[0].size // 2 + 1)
        return (shells <= self.start_radius).astype(np.float64)

    @property
    def resolved(self) -> int:
        """The last shell before the first that is not resolved.

        In the mask, shells of a symmetric map have few independent coefficients: noise alone correlates.
        """
        state, shells = self.states[0], np.arange(1, len(self.correlation))
        free = float(state.mask.mean()) * 2.0 * np.pi * shells**2 / len(group_matrices(state.symmetry))
        least = np.clip(SIGNIFICANT / np.sqrt(free), RESOLVED, ENOUGH)
        below = np.flatnonzero(self.correlation[1:] < least)
        return int(below[0]) if len(below) else len(self.correlation) - 1

    @property
    def members(self) -> np.ndarray:
        """Half-set of each particle, 1 or 2, shape (n,)."""
        return np.where(self.states[0].posterior.visited, 1, 2)

    @property
    def posterior(self) -> PosteriorTable:
        """The latest posterior of every particle in its own half."""
        first, second = (vars(state.posterior) for state in self.states)
        upper = self.states[1].posterior.visited
        columns = {name: first[name].copy() for name in first}
        for name, values in columns.items():
            values[upper] = second[name][upper]
        return PosteriorTable(**columns)

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain data, for `torch.save`."""
        states = [state.state_dict() for state in self.states]
        return {"states": states, "start_radius": self.start_radius, "history": self.history}

    @staticmethod
    def from_state_dict(saved: dict[str, Any]) -> "Halves":
        """Undo `state_dict`, on the CPU."""
        first, second = (State.from_state_dict(state) for state in saved["states"])
        return Halves((first, second), saved["start_radius"], saved["history"])

    def to(self, device: torch.device) -> "Halves":
        """The halves with their tensors on a device."""
        first, second = (state.to(device) for state in self.states)
        return Halves((first, second), self.start_radius, self.history)

    def without_memory(self) -> "Halves":
        """The halves with solvers that begin anew."""
        first, second = (
            replace(s, candidates=(replace(s.candidates[0], solver=IncrementalState(())),))
            for s in self.states
        )
        return Halves((first, second), self.start_radius, self.history)

    def in_box(self, size: int, mask: Tensor) -> "Halves":
        """The halves with their maps and solvers in another box, and there the solvent mask of any box."""
        if size == len(self.states[0].mask):
            return self
        mask = resize_volume(mask, size).clamp(0.0, 1.0)
        first, second = (_in_box(state, size, mask) for state in self.states)
        return Halves((first, second), self.start_radius, self.history)


def _in_box(state: State, size: int, mask: Tensor) -> State:
    """A half with its map and solver in another box, of which the mask is given."""
    candidate = state.candidates[0]
    unfiltered = candidate.unfiltered
    resized = replace(
        candidate,
        volume=resize_transform(candidate.volume, size),
        solver=resized_state(candidate.solver, size),
        unfiltered=None if unfiltered is None else resize_transform(unfiltered, size),
    )
    return replace(state, candidates=(resized,), mask=mask)


@dataclass(frozen=True)
class Plan:
    """What each iteration of a refinement does.

    Parameters
    ----------
    passes
        Times that every image is used to change the map.
    minibatches, chunks
        Iterations of such a pass, and of one for the CTFs, and of the last for the poses and unfiltered maps.
    ctf
        Whether CTFs are looked for.
    start_radius, final_radius
        Fourier pixels: what the start is cut to, and the last radius.
    falling
        Whether the step size falls harmonically in the last pass, for steps that are no averages themselves.
    """

    passes: float
    minibatches: int
    chunks: int
    ctf: bool
    start_radius: float
    final_radius: float
    falling: bool

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The stage of each iteration.

        A map that was made with wrong CTFs hides some of what is wrong with them. With what it shows
        the map is made anew, in a whole pass, and they are found again.
        """
        refine, poses = math.ceil(self.passes * self.minibatches - 1e-9), ("poses",) * self.chunks
        if not self.ctf:
            return ("refine",) * refine + poses
        again, ctf = ("refine",) * self.minibatches, ("ctf",) * self.chunks
        first = max(refine - self.minibatches, min(refine, self.minibatches))
        return ("refine",) * first + ctf + again + ctf + poses

    @property
    def total(self) -> int:
        """All iterations."""
        return len(self.stages)

    def step(self, halves: Halves, images: int) -> Step:
        """What the next iteration does with a minibatch of so many images."""
        stage = self.stages[halves.iteration]
        number = self.stages[: halves.iteration].count(stage)
        if stage == "poses":
            return Step(stage, number, self.final_radius, 0.0, images, 1)
        reached = max(halves.resolved, self.start_radius)
        radius = min(max(reached + MARGIN, GROWTH * reached, halves.states[0].radius), self.final_radius)
        return Step(stage, number, radius, self.rate(number) if stage == "refine" else 0.0, images, 1)

    def rate(self, number: int) -> float:
        """Step size of an iteration that changes the map, by how many have changed it before."""
        late = number - max(0, self.stages.count("refine") - self.minibatches)
        return 1.0 / (1.0 + 0.3 * max(0, late)) if self.falling else 1.0


def prepare(
    particles: Particles, config: Refine, reading: Callable[[int, int], None] | None = None
) -> tuple[tuple[Setup, Setup], Plan, Halves]:
    """Read the images and the map, and make everything that the first iteration needs."""
    start = particles.extent / start_resolution(particles.extent, config)
    members, final = check(particles, config)
    working = working_images(particles, config, final, reading)
    solver = registry.resolved(config.solver)
    fewest = min(map(len, members))
    minibatches, passes = _minibatches(config, solver, fewest, working.images.size, final)
    chunks = min(math.ceil(max(map(len, members)) / (CHUNK * working.images.size)), fewest)
    plan = Plan(passes, minibatches, chunks, config.refine_ctf, start, final, solver.needs.falling)
    setups = tuple(_half(working, config, solver, mine, plan) for mine in members)
    maps = (config.volume, config.second_volume or config.volume)
    seeds = _seeds(particles, config, working.max_shift)
    states = tuple(
        _first_state(working, setup, plan, _start(working, path, start), config.top_poses, seeds)
        for setup, path in zip(setups, maps, strict=True)
    )
    return (setups[0], setups[1]), plan, Halves((states[0], states[1]), start, [])


def _minibatches(config: Refine, solver: Solver, images: int, size: int, radius: float) -> tuple[int, float]:
    """Iterations of a pass, and passes.

    Where all minibatches' quadratics took too much memory there are fewer of them, and more passes if need
    be: the spectrum opens step by step.
    """
    if solver.needs.takes == "all":
        return 1, config.passes
    wanted = math.ceil(images / config.minibatch)
    each = solver.minibatch_bytes(size, radius)
    if not each:
        return wanted, config.passes
    # Two halves, and in each a sum.
    room = MEMORY_BYTES // 2 - solver.fixed_bytes(size, radius)
    minibatches = max(1, min(wanted, room // each))
    return minibatches, max(config.passes, min(LEAST_STEPS, config.passes * wanted) / minibatches)


def _half(working: Working, config: Refine, solver: Solver, mine: np.ndarray, plan: Plan) -> Setup:
    group = group_matrices(config.symmetry)
    return Setup(
        working.images,
        working.mask,
        working.max_shift,
        solver,
        config.seed,
        config.symmetry,
        group,
        scoring_precision(working.images.device.type),
        _sampler(config, group),
        mine,
        partition(mine, plan.minibatches, config.seed),
        solver.needs.hard,
        SCALE_WIDTH,
    )


def _sampler(config: Refine, group: FloatArray) -> Sampler | None:
    """How poses are drawn; None where they are searched."""
    if config.proposal != "importance" and not config.seeded:
        return None
    # Near a known pose nothing is drawn from elsewhere.
    annealing = Annealing(period=0, least_uniform=0.0 if config.near else 0.05)
    return Sampler(annealing, config.samples, group, config.near)


def _seeds(particles: Particles, config: Refine, max_shift: float) -> Memory:
    """What is known of the poses before the first visit: nothing, or those of the particle file."""
    if not config.seeded:
        return Memory.empty(len(particles) if config.proposal == "importance" else 0)
    if particles.rotations is None or particles.shifts is None:
        raise CryogradError(
            "the particle file has no poses to begin with",
            particles.source,
            "give one with angles and origins, or leave out --use-poses, --local and --relax-symmetry",
        )
    distance = np.linalg.norm(particles.shifts, axis=1)
    if config.near and distance.max() > max_shift:
        raise CryogradError(
            f"{np.sum(distance > max_shift)} particles are up to {distance.max():.1f} Å off the centre, and "
            f"shifts are looked for up to {max_shift:.1f} Å",
            particles.source,
            f"give --max-shift {math.ceil(distance.max())}, or remove them",
        )
    spread = np.deg2rad(config.local_angle), config.local_shift
    return seeded_memory(
        particles.rotations, particles.shifts, spread, group_matrices(config.relax_symmetry or "C1")
    )


def _start(working: Working, path: Path, radius: float) -> Tensor:
    """The given map at the working sampling, with nothing beyond a radius in Fourier pixels."""
    density, pixel = read_map(path)
    size, extent = working.images.size, working.images.extent
    if abs(len(density) * pixel - extent) > 0.01 * extent:
        raise CryogradError(
            f"the map's box is {len(density) * pixel:.1f} Å, the particles' is {extent:.1f} Å",
            path,
            "give a map in the particles' box",
        )
    resampled = torch.as_tensor(resample_map(density, pixel, size, extent / size)).to(working.mask)
    volume = lowpass_volume(resampled * working.mask, radius - 0.5 * EDGE, EDGE)
    if not volume.any():
        raise CryogradError("the map is empty inside the mask", path, "give a map with density")
    return volume


def _first_state(
    working: Working, setup: Setup, plan: Plan, density: Tensor, ranked: int, seeds: Memory
) -> State:
    """The map scaled to a half's own images, and the noise in them."""
    n, extent = len(working.images.particles), working.images.extent
    noise = corner_noise(working.images, working.radius, setup.train)
    rng = np.random.default_rng([setup.seed, 3])
    # Products with the Hessian take volumes of the point group.
    symmetric = setup.likelihood(plan.start_radius).symmetrizer.forward(density)
    volume = scaled_to_signal(setup, noise, symmetric, plan.start_radius, rng)
    return State(
        0,
        plan.total,
        "refine",
        plan.start_radius,
        extent / plan.start_radius,
        (Candidate(volume, setup.solver.init(volume), None, None, -math.inf),),
        working.mask,
        extent,
        working.images.size,
        noise,
        0,
        [],
        PosteriorTable.empty(n, max(1, ranked)),
        setup.symmetry,
        seeds,
    )
