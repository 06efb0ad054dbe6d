"""How a run is set up from its options: all images for one map each class, or two half-sets."""

import math
from dataclasses import dataclass, replace

import numpy as np

from cryograd.config import Abinitio, HalfSetRun, ParticleRun
from cryograd.draws import Stream, generator
from cryograd.engine.frame import Frame, start_resolution
from cryograd.engine.program import Goal, March, apart
from cryograd.engine.run import Members, Run, group_of
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.images.store import ImageStore
from cryograd.objective.priors import registry as priors
from cryograd.pose.known import Known
from cryograd.pose.memory import Memory
from cryograd.pose.product import scoring_precision
from cryograd.pose.sampling import Sampler
from cryograd.solvers import registry as solvers
from cryograd.steps.protocol import Solver

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
# Times that a refinement uses every image at least, and at most where the maps do not converge.
LEAST_PASSES, MOST_PASSES = 2.0, 20.0


@dataclass(frozen=True)
class PoseSource:
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


def joint_run(
    images: ImageStore,
    config: Abinitio,
    finest: float,
    known: Known | None = None,
    last_pass: bool = True,
    divided: bool = False,
    goal: Goal = "map",
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
    goal
        What is made.
    """
    n, solver, frame = len(images.particles), solvers.resolved(config.solver), Frame.of(images, config)
    order = generator(config.seed, Stream.HELD_OUT).permutation(n)
    held_out, train = (np.sort(part) for part in np.split(order, [_held_out(config, solver, n)]))
    minibatch = _minibatch(config, solver, len(train), finest)
    plan = _march(images, config, solver, finest, minibatch, goal)
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


def halves_run(
    images: ImageStore,
    config: HalfSetRun,
    symmetries: tuple[str, ...],
    members: tuple[np.ndarray, np.ndarray],
    radii: tuple[float, float],
    poses: PoseSource,
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
    chunks = min(math.ceil(max(map(len, members)) / (CHUNK * images.size)), fewest)
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
            chunks,
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


def with_prior(run: Run, config: Abinitio | HalfSetRun, state: State) -> Run:
    """The run with the prior that was chosen, on the scale of its first maps."""
    return replace(run, prior=priors.resolved(config.prior, state.scale, config.prior_weight))


def most_draws(config: Abinitio, n: int, finest: float, goal: Goal) -> int:
    """Particles of a set of n that a run from a random start looks at, without a last pass."""
    solver = solvers.resolved(config.solver)
    if solver.needs.takes == "all":
        return n
    minibatch = _minibatch(config, solver, n, finest)
    march = March.of(solver.needs, n, minibatch, (1.0, 1.0, 1.0), config.iterations, goal)
    return min(n, march.draws)


def partition(train: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, ...]:
    """Minibatches of nearly equal size, of random particles."""
    shuffled = generator(seed, Stream.PARTITION).permutation(train)
    return tuple(np.sort(part) for part in np.array_split(shuffled, parts))


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


def _march(
    images: ImageStore, config: Abinitio, solver: Solver, finest: float, minibatch: int, goal: Goal
) -> March:
    """How long each stage is."""
    start = finest if goal == "contest" else images.extent / start_resolution(images.extent, config)
    radii = (start, min(max(SELECT_RADIUS, start), finest), finest)
    march = March.of(solver.needs, len(images.particles), minibatch, radii, config.iterations, goal)
    several = config.classes > 1
    tracks = config.classes if several else config.starts or STARTS
    return replace(march, tracks=tracks, kept=tracks if goal == "contest" else 1, classes=config.classes)


def _passes(
    config: HalfSetRun, solver: Solver, images: int, size: int, radius: float, classes: int
) -> tuple[int, tuple[float, float]]:
    """Iterations of a pass, and passes at least and at most.

    What is kept of all minibatches may take too much memory. Then there are fewer of them.
    """
    passes = (LEAST_PASSES, MOST_PASSES) if config.passes is None else (config.passes, config.passes)
    if solver.needs.takes == "all":
        return 1, passes
    wanted = math.ceil(images / config.minibatch)
    each = classes * solver.minibatch_bytes(size, radius)
    if not each:
        return wanted, passes
    # Two halves, and in each a sum.
    room = MEMORY_BYTES // 2 - classes * solver.fixed_bytes(size, radius)
    minibatches = max(1, min(wanted, room // each))
    return minibatches, passes
