"""What a run is, from particles to its last state. Read this first.

There are three runs, each a generator of moments, one after every iteration. All consist of parts, each of
which is the same loop, `engine.loop.iterate`, over a program of steps:

- `abinitio` has one: from random volumes to one map, or one for each class, and the poses of all particles
  there;
- `refine` has one: from a map to two half maps, for each class. They share the start, the mask, the point
  group, the density scale and the correlation curves of the half maps, and nothing else;
- `reconstruct` first makes a map from random starts, to a coarse resolution: by default two groups of starts
  and a contest of their best, a part each. Then it refines that map as `refine` does. Images are read once,
  and maps stay in memory.

Where several classes start from one map, a part before the half-sets divides it.

What the last moment says of particles and half maps is looked at in `examination`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from cryograd.config import Abinitio, HalfSetRun, ParticleRun, Reconstruct, Refine
from cryograd.data.particles import Particles
from cryograd.draws import Stream, generator
from cryograd.engine.axes import refuse_off_axes
from cryograd.engine.between import SYMMETRY_RADIUS, brought_together, leave_centred, leave_maps, refuse_empty
from cryograd.engine.frame import (
    Frame,
    brought_in,
    chosen_device,
    final_radius,
    particle_diameter,
    start_resolution,
)
from cryograd.engine.half_sets import half_sets, last_radius
from cryograd.engine.known_poses import no_poses, poses_of_file
from cryograd.engine.parts import Behind, Leave, Moment, Part, performed
from cryograd.engine.program import Goal
from cryograd.engine.refusals import refuse_mixtures
from cryograd.engine.run import Run, group_of
from cryograd.engine.setup import STARTS, halves_run, joint_run, most_draws, symmetries_of
from cryograd.engine.start import given_state, halves_state, random_state
from cryograd.engine.state import State
from cryograd.fourier import quick_size, resize_transform
from cryograd.images.held import HeldImages, read_images
from cryograd.maps import Map
from cryograd.pose.known import Known

# The finest radius in Fourier pixels of a map from a random start, and of a start for half-sets.
FINEST_RADIUS, START_RADIUS = 28.0, 10.0
# Fourier pixels that a start of half-sets has at least. With fewer, a hollow or small molecule is a ball:
# images do not tell their orientations, and the half-sets agree on what is left of the noise.
SOUND_RADIUS = 9.0
# Groups of random starts.
GROUPS = 2

# Called with the number of images that were read and the number of all.
Reading = Callable[[int, int], None]
# The first state of a part of the start.
First = Callable[[Run, Abinitio, Behind], State]


def abinitio(
    particles: Particles,
    config: Abinitio,
    resume: Mapping[str, Any] | None = None,
    reading: Reading | None = None,
) -> Iterator[Moment]:
    """Reconstruct a map, or one for each class, from a random start.

    Parameters
    ----------
    particles
        The images and their CTFs; poses are not looked at.
    config
        Options.
    resume
        What `Moment.saved` gave of the moment to go on from.
    reading
        Told of the progress while images are read.

    Yields
    ------
    Moment
        After every iteration. The last one has the final map and a pose for every particle.

    Raises
    ------
    CryogradError
        An image, the mask or an option does not fit.
    """
    refuse_mixtures(config, len(particles))
    finest = _start_radius(particles, config)
    images = _read(particles, config, finest, reading)
    start = Part(
        config=config,
        run=lambda behind: joint_run(images, config, finest),
        first=lambda run, behind: random_state(run, config),
        leave=leave_maps,
    )
    yield from performed([start], images, resume)


def refine(
    particles: Particles,
    config: Refine,
    resume: Mapping[str, Any] | None = None,
    reading: Reading | None = None,
    volumes: Sequence[Map] = (),
    replayed: Sequence[Sequence[float]] | None = None,
) -> Iterator[Moment]:
    """Refine a map, or one for each class, in two halves of the particles.

    One map for several classes is divided first, by all images together and at low resolution: the halves
    have to agree on which class is which.

    Parameters
    ----------
    particles
        The images and their CTFs. Half-sets that the file names are kept; poses are looked at if the options
        say so.
    config
        Options.
    resume, reading
        As for `abinitio`.
    volumes
        Maps in the place of the files that the options name.
    replayed
        As `engine.loop.iterate` takes it.

    Yields
    ------
    Moment
        After every iteration. The last one also has unfiltered half maps, and a pose for every particle.

    Raises
    ------
    CryogradError
        An image, a map, the mask or an option does not fit.
    """
    refuse_mixtures(config, len(particles), len(volumes))
    members, final = half_sets(particles, config.seed), last_radius(particles, config)
    # A map that cannot be read is refused before the images are.
    starts = list(volumes) or [Map.read(path) for path in config.volume]
    second_start = None if config.second_volume is None else Map.read(config.second_volume)
    for start, name in _imposed(config, starts, second_start):
        refuse_off_axes(start, particles, config, name)
    images = _read(particles, config, final, reading)
    frame = Frame.of(images, config)
    poses = poses_of_file(particles, config, frame.max_shift)
    divides = config.classes > len(starts)
    radius = _first_radius(particles, config, divides)

    def given() -> list[Tensor]:
        return [brought_in(start, images.extent, frame.mask) for start in starts]

    def first(run: Run, behind: Behind) -> State:
        maps = _in_box(behind.maps[-1], images.size) if divides else given()
        second = maps if second_start is None else [brought_in(second_start, images.extent, frame.mask)]
        return halves_state(run, config, [maps, second], poses)

    halves = Part(
        config=config,
        run=lambda behind: halves_run(images, config, symmetries_of(config), members, (radius, final), poses),
        first=first,
        leave=leave_maps,
    )
    division = _division(images, config, lambda behind: given()[0], poses.known)
    yield from performed([division, halves] if divides else [halves], images, resume, replayed)


def reconstruct(
    particles: Particles,
    config: Reconstruct,
    resume: Mapping[str, Any] | None = None,
    reading: Reading | None = None,
) -> Iterator[Moment]:
    """Reconstruct from a random start, and refine in two halves of the particles.

    Parameters
    ----------
    particles, config, resume, reading
        As for `abinitio`; the half-sets that the file names are kept.

    Yields
    ------
    Moment
        After every iteration. The last one also has unfiltered half maps, and a pose for every particle.

    Raises
    ------
    CryogradError
        An image, the mask or an option does not fit, or no particle was found.
    """
    refuse_mixtures(config, len(particles))
    members, final = half_sets(particles, config.seed), last_radius(particles, config)
    auto, divides = config.symmetry == "auto", config.classes > 1
    options = _of_start(particles, config, SYMMETRY_RADIUS if auto else START_RADIUS)
    finest = _start_radius(particles, options)
    images = _read(particles, config, final, reading)
    poses, radius = no_poses(particles, config), _first_radius(particles, config, divides)

    def framed(state: State, behind: Behind) -> Behind:
        behind = leave_centred(state, behind)
        for volumes in behind.maps:
            refuse_empty(volumes, particles)
        return brought_together(behind, images, auto)

    def halves(behind: Behind) -> Run:
        symmetries = (behind.symmetries[0]["name"],) if auto else symmetries_of(config)
        return halves_run(images, config, symmetries, members, (radius, final), poses)

    def first(run: Run, behind: Behind) -> State:
        maps = [_in_box(volumes, images.size) for volumes in behind.maps]
        return halves_state(run, config, [maps[-1] if divides else maps[0], maps[-1]], poses)

    random = partial(_starts, images, options, "map" if auto else "start", finest)
    if config.independent_halves:
        starts = [*random(members[0], 0, leave_centred), *random(members[1], 1, framed)]
    else:
        starts = random(np.arange(len(particles)), 0, framed)
    if divides:
        starts.append(_division(images, config, lambda behind: behind.maps[-1][0], None))
    refinement = Part(config=config, run=halves, first=first, leave=leave_maps)
    yield from performed([*starts, refinement], images, resume)


def _starts(
    images: HeldImages,
    options: Abinitio,
    goal: Goal,
    finest: float,
    mine: np.ndarray,
    number: int,
    leave: Leave,
) -> list[Part]:
    """The parts that make one map of some images: groups of random starts, and a contest of their best.

    Starts that look at the same images in the same order tend to one map, also where it is wrong: each group
    has an order of its own.
    """
    count = options.starts or STARTS
    groups = min(GROUPS, count)

    def part(place: int, starts: int, goal: Goal, first: First, leave: Leave) -> Part:
        own = options.model_copy(update={"seed": _seed(options, place), "starts": starts})
        mixed = generator(own.seed, Stream.START_IMAGES).permutation(mine)
        drawn = np.sort(mixed[: most_draws(own, len(mine), finest, goal)])

        def run(behind: Behind) -> Run:
            small = images.cropped(drawn, quick_size(finest, images.size))
            return joint_run(small, own, finest, last_pass=False, goal=goal)

        return Part(own, run, lambda run, behind: first(run, own, behind), leave)

    def random(run: Run, own: Abinitio, behind: Behind) -> State:
        return random_state(run, own)

    def rivals(run: Run, own: Abinitio, behind: Behind) -> State:
        maps = [volumes[0] for volumes in behind.maps[-groups:] if volumes[0].any()]
        if not maps:
            # Of these starts alone: the other half-set may have a map of its own.
            refuse_empty([volumes[0] for volumes in behind.maps[-groups:]], images.particles)
        return given_state(run, own, maps)

    def best(state: State, behind: Behind) -> Behind:
        return leave(state, replace(behind, maps=behind.maps[:-groups]))

    offset = number * (GROUPS + 1)
    if groups == 1:
        return [part(offset, count, goal, random, leave)]
    sizes = [len(some) for some in np.array_split(np.arange(count), groups)]
    parts = [part(offset + k, size, goal, random, leave_maps) for k, size in enumerate(sizes)]
    return [*parts, part(offset + groups, groups, "contest", rivals, best)]


def _seed(options: Abinitio, place: int) -> int:
    """The seed of a part of the start."""
    return int(generator(options.seed, Stream.GROUP, place).integers(2**31)) if place else options.seed


def _division(
    images: HeldImages, config: HalfSetRun, volume: Callable[[Behind], Tensor], known: Known | None
) -> Part:
    """The part in which all images together, at low resolution, divide one map into classes.

    Half-sets have to agree on which class is which. Random starts of each class would be less: one that ends
    in a wrong map leaves its images to the others.
    """
    particles = images.particles
    options = _of_start(particles, config, SYMMETRY_RADIUS, config.classes)
    finest = _start_radius(particles, options)

    def run(behind: Behind) -> Run:
        small = images.cropped(np.arange(len(particles)), quick_size(finest, images.size))
        return joint_run(small, options, finest, known, last_pass=False, divided=True)

    def first(run: Run, behind: Behind) -> State:
        given = resize_transform(volume(behind), run.images.size)
        return given_state(run, options, [given] * run.classes)

    def leave(state: State, behind: Behind) -> Behind:
        behind = leave_maps(state, behind)
        refuse_empty(behind.maps[-1], particles)
        return behind

    return Part(config=options, run=run, first=first, leave=leave)


def _read(particles: Particles, config: ParticleRun, finest: float, reading: Reading | None) -> HeldImages:
    """Read the images at a sampling that holds the finest radius, in Fourier pixels."""
    diameter = particle_diameter(particles, config)
    size = quick_size(finest, max(optics.box_size for optics in particles.optics))
    return read_images(particles, size, particles.extent, diameter, chosen_device(config.device), reading)


def _imposed(config: Refine, starts: Sequence[Map], second: Map | None) -> Iterator[tuple[Map, str]]:
    """The maps that half-sets start from, with each point group that is imposed on them."""
    symmetries = symmetries_of(config)
    if len(starts) == len(symmetries):
        yield from zip(starts, symmetries, strict=True)
    else:
        yield from ((starts[0], name) for name in dict.fromkeys(symmetries))
    if second is not None:
        yield second, symmetries[0]


def _first_radius(particles: Particles, config: HalfSetRun, divided: bool) -> float:
    """Fourier pixels at which maps of half-sets start."""
    radius, least = particles.extent / start_resolution(particles.extent, config), 0.0
    if divided:
        # Classes that were divided at some resolution would be alike again at a coarser one.
        least = START_RADIUS
    elif isinstance(config, Reconstruct) and config.start_resolution is None:
        least = SOUND_RADIUS
    return min(max(radius, least), last_radius(particles, config))


def _start_radius(particles: Particles, config: Abinitio) -> float:
    """The last radius of a run from a random start: Nyquist's is too fine for one."""
    nyquist = particles.extent / particles.nyquist
    # The box holds one Fourier pixel more, which of a small one is more than a tenth.
    return final_radius(particles, config, FINEST_RADIUS, min(0.9 * nyquist, nyquist - 1.0))


def _of_start(particles: Particles, config: HalfSetRun, finest: float, classes: int = 1) -> Abinitio:
    """What a part before the half-sets is asked to do: what all runs share, to a coarse resolution."""
    finest = min(finest, last_radius(particles, config))
    angstrom = max(particles.extent / finest, particles.nyquist)
    # The halves may begin where this ends, or beyond.
    coarser = config.start_resolution is not None and config.start_resolution > angstrom
    own = config if isinstance(config, Reconstruct) else None
    prior = own.start_prior if own else None
    changed = {
        "max_resolution": angstrom,
        "start_resolution": config.start_resolution if coarser else None,
        "classes": classes,
        "symmetry": config.symmetry if classes > 1 else _symmetry_of_start(config),
        # At low resolution a search finds poses as well as drawing them does.
        "proposal": "search",
        "prior": prior or ("none" if config.prior == "none" else "exponential"),
        "solver": own.start_solver if own else "preconditioned",
        "starts": own.starts if own and classes == 1 else None,
    }
    return Abinitio(**({name: getattr(config, name) for name in ParticleRun.model_fields} | changed))


def _symmetry_of_start(config: HalfSetRun) -> str:
    """The point group of a start: of several, the largest, whose axes the other classes have to share."""
    if config.symmetry == "auto":
        return "C1"
    return max(symmetries_of(config), key=lambda name: len(group_of(name)))


def _in_box(volumes: Sequence[Tensor], size: int) -> list[Tensor]:
    """Maps in another box of the same extent."""
    return [resize_transform(volume, size) for volume in volumes]
