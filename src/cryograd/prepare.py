"""What an ab initio run derives from its data and options before the first iteration."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.model.blobs import random_blobs
from cryograd.model.noise import Noise
from cryograd.model.symmetry import group_matrices
from cryograd.objective.prior import Prior
from cryograd.objective.priors import registry as priors
from cryograd.pose.memory import Memory
from cryograd.pose.product import scoring_precision
from cryograd.pose.sampling import Sampler
from cryograd.posterior_table import PosteriorTable
from cryograd.setup import (
    Setup,
    corner_noise,
    final_radius,
    partition,
    scaled_to_signal,
    start_resolution,
    working_images,
)
from cryograd.solvers import registry as solvers
from cryograd.solvers.schedule import March
from cryograd.state import Candidate, State
from cryograd.steps.protocol import Solver

# Radii in Fourier pixels at which one start is chosen, and the finest one of the march.
SELECT_RADIUS, FINEST_RADIUS = 8.0, 28.0
# Iterations at the final radius, at least and at most, where these take every image once.
SETTLE = (14, 50)
# Random starts by default where one map is wanted.
STARTS = 4
# Bytes that what is kept of all minibatches may take.
MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class AbinitioSetup(Setup):
    """What an ab initio run never changes.

    Parameters
    ----------
    plan
        What each iteration does.
    prior
        As chosen.
    half
        Half of each particle for the map's noise, shape (n,), bool.
    held_out
        Particles whose evidence says when the map is done, and that do not change it.
    """

    plan: March
    prior: Prior
    half: np.ndarray
    held_out: np.ndarray

    @property
    def spectral(self) -> bool:
        """Whether the map's noise is measured, for the prior on the spectrum."""
        return self.solver.needs.spectral


def prepare(
    particles: Particles, config: Abinitio, reading: Callable[[int, int], None] | None = None
) -> tuple[AbinitioSetup, State]:
    """Read the images and make everything that the first iteration needs."""
    solver = solvers.resolved(config.solver)
    if solver.needs.hard and config.proposal == "importance":
        raise CryogradError(
            "projection matching takes the best pose of a search",
            "--proposal importance",
            "use --proposal search, or --solver em",
        )
    if config.classes > 1:
        _refuse_with_classes(config, solver)
    extent = particles.extent
    finest = final_radius(particles, config, FINEST_RADIUS, 0.9 * extent / particles.nyquist)
    working = working_images(particles, config, finest, reading)
    mask = working.mask
    noise = corner_noise(working.images, working.radius, np.arange(len(particles)))
    group = group_matrices(config.symmetry)
    start = extent / start_resolution(extent, config)
    held_out, train = np.split(
        np.random.default_rng([config.seed, 6]).permutation(len(particles)),
        [_held_out(config, solver, len(particles))],
    )
    held_out, train = np.sort(held_out), np.sort(train)
    size = working.images.size
    minibatch = (
        len(train)
        if solver.needs.takes == "all"
        else _minibatch_size(config, solver, len(train), (size, finest))
    )
    plan = _plan(
        config, solver, len(particles), minibatch, (start, min(max(SELECT_RADIUS, start), finest), finest)
    )
    setup = AbinitioSetup(
        working.images,
        mask,
        working.max_shift,
        solver,
        config.seed,
        config.symmetry,
        group,
        scoring_precision(working.images.device.type),
        Sampler.over(plan.optimisation, config.samples, group) if config.proposal == "importance" else None,
        train,
        partition(train, math.ceil(len(train) / minibatch), config.seed),
        solver.needs.hard,
        0.0,
        plan,
        priors.resolved("none", 0.0, 0.0),
        # Not by order: files may alternate between optics groups.
        np.random.default_rng([config.seed, 5]).permutation(len(particles)) % 2 == 1,
        held_out,
    )
    candidates = tuple(
        _random_start(setup, noise, mask, working.radius, number) for number in range(plan.candidates)
    )
    scale = float(np.mean([float(c.volume[mask > 0.5].square().mean().sqrt()) for c in candidates]))
    setup = replace(setup, prior=priors.resolved(config.prior, scale, config.prior_weight))
    table = PosteriorTable.empty(len(particles), classes=plan.classes)
    state = State(
        0,
        plan.total,
        "starts",
        plan.start_radius,
        extent / plan.start_radius,
        candidates,
        mask,
        extent,
        working.images.size,
        noise,
        0,
        [],
        table,
        config.symmetry,
        Memory.empty(len(particles) if setup.sampler is not None else 0),
    )
    return setup, state


def _refuse_with_classes(config: Abinitio, solver: Solver) -> None:
    """Refuse what has no meaning, or no counterpart yet, with several classes."""
    refused = [
        ("--starts", config.starts is not None, "each class has one random start", "leave it out"),
        (
            "--proposal importance",
            config.proposal == "importance",
            "what is remembered of an image's poses is of one map",
            "use --proposal search",
        ),
        (
            f"--solver {solvers.name_of(config.solver)}",
            solver.needs.hard,
            "the best pose alone says nothing of how probable a class is",
            "use --solver em",
        ),
    ]
    for option, given, why, remedy in refused:
        if given:
            raise CryogradError(f"{option} does not go with classes: {why}", "--classes", remedy)


def _held_out(config: Abinitio, solver: Solver, n: int) -> int:
    """Particles that are held out: as many as asked for, or the papers' number for the papers' solvers."""
    if config.held_out is None:
        return min(solver.needs.held_out, n // 10)
    if config.held_out > n // 2:
        raise CryogradError(
            f"--held-out {config.held_out} leaves too few of {n} particles",
            config.particles,
            f"hold out {n // 2} or fewer",
        )
    return config.held_out


def _minibatch_size(config: Abinitio, solver: Solver, n: int, box: tuple[int, float]) -> int:
    """Images in an iteration: more than asked for where what is kept of each took too much memory.

    The box is its side in voxels and the finest radius in it.
    """
    each = solver.minibatch_bytes(*box)
    if not each:
        return min(config.minibatch, n)
    most = max(1, (MEMORY_BYTES - solver.fixed_bytes(*box)) // each)
    return min(max(config.minibatch, math.ceil(n / most)), n)


def _plan(
    config: Abinitio, solver: Solver, n: int, minibatch: int, radii: tuple[float, float, float]
) -> March:
    """How long each stage is."""
    select, march, settle = solver.needs.stages
    if settle is None:
        settle = min(max(math.ceil(n / minibatch), SETTLE[0]), SETTLE[1])
    if config.iterations is not None:
        shares = np.cumsum([select, march, settle]) / (select + march + settle)
        ends = np.maximum(np.rint(config.iterations * shares), [1, 2, 3]).astype(int)
        select, march, settle = (int(x) for x in np.diff(ends, prepend=0))
    return March(
        n,
        *radii,
        candidates=config.classes if config.classes > 1 else config.starts or STARTS,
        classes=config.classes,
        minibatch=minibatch,
        start_minibatch=math.ceil(minibatch / 2) if solver.needs.half_start else minibatch,
        select=select,
        march=march,
        settle=settle,
        # The longer it settles, the more images the last map averages.
        last_rate=0.2 * SETTLE[0] / settle if solver.needs.falling else 1.0,
    )


def _random_start(setup: AbinitioSetup, noise: Noise, mask: Tensor, radius: float, number: int) -> Candidate:
    """A random volume scaled so that its projections have half the amplitude of the images' signal."""
    rng = np.random.default_rng([setup.seed, 3, number])
    blobs = random_blobs(setup.images.size, radius, rng)
    volume = torch.as_tensor(blobs).to(mask) * mask
    volume = 0.5 * scaled_to_signal(setup, noise, volume, setup.plan.start_radius, rng)
    halves = (torch.zeros_like(volume), setup.solver.init(volume)) if setup.spectral else (None, None)
    return Candidate(volume, setup.solver.init(volume), *halves, -math.inf, share=1.0 / setup.plan.classes)
