"""How runs start: from random volumes, from a map that is to be divided into classes, or in two half-sets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryograd.config import Abinitio, HalfSetRun, ParticleRun
from cryograd.draws import Stream, generator
from cryograd.engine.frame import Frame, corner_noise, scaled_to_signal, start_resolution
from cryograd.engine.halves import EDGE, first_curves
from cryograd.engine.program import March, apart
from cryograd.engine.setup import Members, Run, group_of
from cryograd.engine.state import Side, State, Track
from cryograd.engine.table import PosteriorTable
from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume
from cryograd.images.store import ImageStore
from cryograd.model.noise import Noise
from cryograd.objective.priors import registry as priors
from cryograd.pose.known import Known
from cryograd.pose.memory import Memory
from cryograd.pose.product import scoring_precision
from cryograd.pose.sampling import Sampler
from cryograd.simulation.blobs import random_blobs
from cryograd.solvers import registry as solvers
from cryograd.steps.protocol import Solver, SolverState

# Radius in Fourier pixels at which one start is chosen.
SELECT_RADIUS = 8.0
# Random starts by default where one map is wanted.
STARTS = 4
# Bytes that all that a solver keeps of minibatches may take.
MEMORY_BYTES = 2 * 2**30
# Standard deviation of the prior of an image's scale around 1, in half-sets.
SCALE_WIDTH = 0.25
# Images of a half-set whose poses the last pass finds at a time, for each voxel of the box's side: what is
# done once for all of them takes as long as 400 in 256 voxels, and grows by one power more than they.
CHUNK = 8
# Iterations that a refinement has at least where memory allows few minibatches.
LEAST_STEPS = 10


@dataclass(frozen=True)
class Poses:
    """What is known of poses before the first visit.

    Parameters
    ----------
    sampler
        How poses are drawn; None where they are searched.
    memory
        What the sampler remembers.
    known
        The pose of every particle, where these are not looked for.
    """

    sampler: Sampler | None
    memory: Memory
    known: Known | None = None


def symmetries_of(config: ParticleRun) -> tuple[str, ...]:
    """The point group of each class."""
    given = config.symmetries
    if len(given) not in (1, config.classes):
        raise CryogradError(
            f"{len(given)} point groups for {config.classes} classes",
            f"--symmetry {config.symmetry}",
            "give one for all classes, or one for each",
        )
    return given * config.classes if len(given) == 1 else given


def partition(train: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, ...]:
    """Minibatches of nearly equal size, of random particles."""
    shuffled = generator(seed, Stream.PARTITION).permutation(train)
    return tuple(np.sort(part) for part in np.array_split(shuffled, parts))


def joint_run(
    images: ImageStore,
    config: Abinitio,
    finest: float,
    known: Known | None = None,
    last_pass: bool = True,
    divided: bool = False,
) -> Run:
    """A run in which all images make one map, or a map for each class.

    Parameters
    ----------
    images
        The images.
    config
        Options.
    finest
        The last radius in Fourier pixels.
    known
        The pose of every particle, where these are not looked for.
    last_pass
        Whether all particles get poses at the end.
    divided
        As `Run` has it.
    """
    n, solver, frame = len(images.particles), solvers.resolved(config.solver), Frame.of(images, config)
    order = generator(config.seed, Stream.HELD_OUT).permutation(n)
    held_out, train = (np.sort(part) for part in np.split(order, [_held_out(config, solver, n)]))
    minibatch = _minibatch(config, solver, len(train), finest)
    plan = _march(images, config, solver, finest, minibatch)
    symmetries = symmetries_of(config)
    sampler = None
    if config.proposal == "importance":
        sampler = Sampler.over(plan.moves, config.samples, group_of(symmetries[0]))
    members = Members(
        every=np.arange(n),
        train=train,
        partition=partition(train, math.ceil(len(train) / minibatch), config.seed),
    )
    return Run(
        images=images,
        mask=frame.mask,
        max_shift=frame.max_shift,
        solver=solver,
        prior=priors.resolved("none", 1.0, 0.0),
        seed=config.seed,
        symmetries=symmetries,
        sides=(members,),
        program=plan.program(n, last_pass),
        precision=scoring_precision(images.device.type),
        sampler=sampler,
        known=known,
        held_out=held_out if len(held_out) else None,
        noise_halves=_noise_halves(config.seed, n) if solver.needs.spectral else None,
        divided=divided,
    )


def most_draws(config: Abinitio, n: int, finest: float) -> int:
    """Particles of a set of n that a run from a random start looks at, without a last pass."""
    solver = solvers.resolved(config.solver)
    if solver.needs.takes == "all":
        return n
    minibatch = _minibatch(config, solver, n, finest)
    march = March.of(solver.needs, n, minibatch, (1.0, 1.0, 1.0), config.iterations)
    return min(n, march.draws)


def random_state(run: Run, config: Abinitio) -> State:
    """Random volumes."""
    count = run.classes if run.classes > 1 else config.starts or STARTS
    frame, members = Frame.of(run.images, config), run.sides[0]
    noise = corner_noise(run.images, frame.radius, members.every)
    tracks = [_random_track(run, frame, noise, number) for number in range(count)]
    return _first_state(run, [Side(tuple(tracks), noise)], _nothing(run))


def divided_state(run: Run, config: ParticleRun, volume: Tensor) -> State:
    """One map (W, W, W) for all classes of a run that divides its images at their first visit."""
    return _first_state(run, [_given_side(run, config, 0, [volume] * run.classes)], _nothing(run))


def halves_state(run: Run, config: HalfSetRun, starts: Sequence[Sequence[Tensor]], poses: Poses) -> State:
    """Two half-sets that start from maps.

    Parameters
    ----------
    run, config
        The run and its options.
    starts
        Of each half-set, the map of each class in the images' box (W, W, W).
    poses
        What is known of poses.
    """
    sides = [_given_side(run, config, number, maps) for number, maps in enumerate(starts)]
    return _first_state(run, sides, poses.memory, max(1, config.top_poses))


def with_prior(run: Run, config: Abinitio | HalfSetRun, state: State) -> Run:
    """The run with the prior that was chosen, on the scale of its first maps."""
    return replace(run, prior=priors.resolved(config.prior, state.scale, config.prior_weight))


def halves_run(
    images: ImageStore,
    config: HalfSetRun,
    symmetries: tuple[str, ...],
    members: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    poses: Poses,
) -> Run:
    """A refinement in two half-sets.

    Parameters
    ----------
    images, config
        The images, and options.
    symmetries
        Point group of each class.
    members
        Particles of the half-sets.
    radii
        Fourier pixels: what the start is cut to, and the last radius.
    poses
        What is known of poses.
    """
    solver, frame = solvers.resolved(config.solver), Frame.of(images, config)
    fewest = min(map(len, members))
    minibatches, passes = _passes(config, solver, fewest, images.size, radii[1], len(symmetries))
    parts = min(math.ceil(max(map(len, members)) / (CHUNK * images.size)), fewest)
    return Run(
        images=images,
        mask=frame.mask,
        max_shift=frame.max_shift,
        solver=solver,
        prior=priors.resolved("none", 1.0, 0.0),
        seed=config.seed,
        symmetries=symmetries,
        sides=tuple(Members(mine, mine, partition(mine, minibatches, config.seed)) for mine in members),
        program=apart(
            passes,
            minibatches,
            parts,
            radii,
            tracks=len(symmetries),
            ctf=config.refine_ctf,
            falling=solver.needs.falling,
        ),
        precision=scoring_precision(images.device.type),
        sampler=poses.sampler,
        known=poses.known,
        scale_width=SCALE_WIDTH,
    )


def _given_side(run: Run, config: ParticleRun, number: int, maps: Sequence[Tensor]) -> Side:
    """A side that starts from given maps, each cut, symmetrised and scaled to the side's own images."""
    frame, members, radius = Frame.of(run.images, config), run.sides[number], run.program.start_radius
    noise = corner_noise(run.images, frame.radius, members.train)
    tracks = []
    for symmetry, density in zip(run.symmetries, maps, strict=True):
        cut = lowpass_volume(density, radius - 0.5 * EDGE, EDGE)
        if not cut.any():
            raise CryogradError(
                "the map is empty inside the mask", config.particles, "give a map with density"
            )
        # Products with the Hessian take volumes of the point group.
        symmetric = run.likelihood(radius, symmetry).symmetrizer.forward(cut)
        rng = generator(run.seed, Stream.SCALE)
        volume = scaled_to_signal(run, members.train, noise, symmetric, symmetry, rng)
        spare = _difference(run, volume)
        tracks.append(Track(symmetry, volume, run.solver.init(volume), *spare, share=1.0 / run.classes))
    return Side(tuple(tracks), noise)


def _random_track(run: Run, frame: Frame, noise: Noise, number: int) -> Track:
    """A random volume scaled so that its projections have half the amplitude of the images' signal."""
    rng, symmetry = generator(run.seed, Stream.START, number), run.symmetries[number % run.classes]
    volume = torch.as_tensor(random_blobs(run.images.size, frame.radius, rng)).to(run.mask) * run.mask
    volume = 0.5 * scaled_to_signal(run, run.sides[0].train, noise, volume, symmetry, rng)
    spare = _difference(run, volume)
    return Track(symmetry, volume, run.solver.init(volume), *spare, share=1.0 / run.classes)


def _difference(run: Run, volume: Tensor) -> tuple[Tensor | None, SolverState | None]:
    """Half the difference of two halves' maps at the start, and its solver's state, where it is followed."""
    if run.noise_halves is None:
        return None, None
    return torch.zeros_like(volume), run.solver.init(volume)


def _first_state(run: Run, sides: list[Side], memory: Memory, ranked: int = 1) -> State:
    """The state before the first iteration."""
    n, size, radius = len(run.images.particles), run.images.size, run.program.start_radius
    table = PosteriorTable.empty(n, ranked, run.classes)
    if run.apart:
        for half, members in enumerate(run.sides, 1):
            table.half[members.every] = half
    return State(
        iteration=0,
        place=0,
        total_iterations=len(run.program),
        stage=run.program.steps[0].stage,
        radius=radius,
        sides=sides,
        mask=run.mask,
        extent=run.images.extent,
        size=size,
        start_radius=radius,
        scale=_scale(run.mask, [track.volume for side in sides for track in side.tracks]),
        curves=first_curves(size, radius, run.classes) if run.apart else None,
        table=table,
        memory=memory,
        history=[],
    )


def _nothing(run: Run) -> Memory:
    """The memory of a sampler that has seen nothing; of no particle where there is no sampler."""
    return Memory.empty(0 if run.sampler is None else len(run.images.particles))


def _scale(mask: Tensor, volumes: Sequence[Tensor]) -> float:
    """Root mean square density of some volumes in the mask."""
    return float(np.mean([float(volume[mask > 0.5].square().mean().sqrt()) for volume in volumes]))


def _noise_halves(seed: int, n: int) -> np.ndarray:
    """Two halves of the particles, not by their order: files may alternate between optics groups."""
    return generator(seed, Stream.NOISE_HALVES).permutation(n) % 2 == 1


def _held_out(config: Abinitio, solver: Solver, n: int) -> int:
    """Particles that are held out: as many as asked for, or as the solver wants."""
    if config.held_out is None:
        return min(solver.needs.held_out, n // 10)
    if config.held_out > n // 2:
        raise CryogradError(
            f"--held-out {config.held_out} leaves too few of {n} particles",
            config.particles,
            f"hold out {n // 2} or fewer",
        )
    return config.held_out


def _minibatch(config: Abinitio, solver: Solver, n: int, radius: float) -> int:
    """Images in an iteration: more than asked for where what is kept of minibatches took too much memory."""
    if solver.needs.takes == "all":
        return n
    each = solver.minibatch_bytes(2 * math.ceil(radius) + 2, radius)
    most = max(1, MEMORY_BYTES // each) if each else n
    return min(max(config.minibatch, math.ceil(n / most)), n)


def _march(images: ImageStore, config: Abinitio, solver: Solver, finest: float, minibatch: int) -> March:
    """How long each stage is."""
    start = images.extent / start_resolution(images.extent, config)
    radii = (start, min(max(SELECT_RADIUS, start), finest), finest)
    march = March.of(solver.needs, len(images.particles), minibatch, radii, config.iterations)
    several = config.classes > 1
    return replace(
        march, tracks=config.classes if several else config.starts or STARTS, classes=config.classes
    )


def _passes(
    config: HalfSetRun, solver: Solver, images: int, size: int, radius: float, classes: int
) -> tuple[int, float]:
    """Iterations of a pass, and passes.

    Where what is kept of all minibatches took too much memory there are fewer of them, and more passes if
    need be: the spectrum opens step by step.
    """
    if solver.needs.takes == "all":
        return 1, config.passes
    wanted = math.ceil(images / config.minibatch)
    each = classes * solver.minibatch_bytes(size, radius)
    if not each:
        return wanted, config.passes
    # Two halves, and in each a sum.
    room = MEMORY_BYTES // 2 - classes * solver.fixed_bytes(size, radius)
    minibatches = max(1, min(wanted, room // each))
    return minibatches, max(config.passes, min(LEAST_STEPS, config.passes * wanted) / minibatches)
