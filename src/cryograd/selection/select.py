"""What `select` is asked for: the particles for which all criteria hold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryograd.config import Select
from cryograd.data.noise_copies import noise_copies
from cryograd.data.particles import IntArray, Particles
from cryograd.data.read import read_particles
from cryograd.data.shared_noise import has_places, noise_number
from cryograd.data.star import write_particles_star
from cryograd.draws import Stream, generator
from cryograd.errors import CryogradError
from cryograd.selection.columns import Columns
from cryograd.selection.conditions import BoolArray, holds
from cryograd.selection.listed import listed
from cryograd.selection.write import check_star_output, refuse_nothing, write_chosen

Progress = Callable[[int, int], None]
# Classes that an error names.
_NAMED = 20


@dataclass(frozen=True)
class Selection:
    """The particles that were kept.

    Parameters
    ----------
    particles
        The particles, in the order of the file.
    rows
        Their numbers in what was given, from 0, shape (k,).
    dropped
        How many particles each criterion dropped of those that the ones before it had left.
    unknown
        Names in each list that none of the particles given has.
    """

    particles: Particles
    rows: IntArray
    dropped: dict[str, int]
    unknown: dict[str, tuple[str, ...]]


@dataclass
class _Left:
    """What criteria have left so far."""

    particles: Particles
    rows: IntArray
    dropped: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def keep(self, criterion: str, kept: BoolArray) -> None:
        """Drop those of all particles that are not kept, of shape (n,)."""
        rows = self.rows[kept[self.rows]]
        self.dropped[criterion] = len(self.rows) - len(rows)
        refuse_nothing(rows, self.particles.source, self.dropped)
        self.rows = rows


def selected(config: Select, given: Particles | None = None, progress: Progress | None = None) -> Selection:
    """Choose particles, and write them if there is an output.

    Parameters
    ----------
    config
        Options.
    given
        Particles in the place of the file that the options name.
    progress
        Called with the number of images read and the number of all, where images are read.
    """
    lists = {name: getattr(config, name) for name in ("list", "exclude") if getattr(config, name) is not None}
    if config.seed and config.random is None:
        raise CryogradError("nothing looks at it without --random", "--seed", "leave it out, or give both")
    if config.output is not None:
        check_star_output(config.output, config.particles, *lists.values(), overwrite=config.overwrite)
    particles = read_particles(config.particles, require_images=False) if given is None else given
    left = _Left(particles, np.arange(len(particles)))
    _by_rows(left, config, lists)
    if config.remove_duplicates is not None:
        alike = None
        if config.remove_duplicates > 0.0 and not has_places(particles):
            # Only the pixels can tell.
            readable = read_particles(config.particles) if given is None else particles
            readable.validate_stacks()
            alike = noise_copies(readable.select(left.rows), progress)
        left.keep("remove_duplicates", _first_of_each(left, config.remove_duplicates, alike))
    if config.random is not None:
        left.keep("random", _drawn(left, config.random, config.seed))
    kept = particles.select(left.rows)
    if config.output is not None and given is None:
        write_chosen(config.output, config.particles, left.rows)
    elif config.output is not None:
        write_particles_star(config.output, kept)
    return Selection(kept, left.rows, left.dropped, left.unknown)


def _by_rows(left: _Left, config: Select, lists: dict[str, Path]) -> None:
    """Apply what is true or not of each particle, whatever the others are."""
    particles = left.particles
    columns = Columns(particles)
    if config.where is not None:
        left.keep("where", holds(config.where, columns))
    for name, path in lists.items():
        found = listed(path, particles)
        left.unknown[name] = found.unknown
        left.keep(name, found.members if name == "list" else ~found.members)
    if config.class_number is not None:
        left.keep("class_number", _in_class(columns, config.class_number, particles.source))
    if config.max_junk is not None:
        left.keep("max_junk", columns.numbers("cryogradJunkProbability") <= config.max_junk)
    if config.half is not None:
        left.keep("half", columns.numbers("rlnRandomSubset") == config.half)


def _in_class(columns: Columns, number: int, source: Path) -> BoolArray:
    """Which particles are of a class, by the number of each, or else by the largest probability."""
    chances = columns.like(r"cryogradClassProbability[1-9]\d*")
    if "rlnClassNumber" in columns or not chances:
        classes = columns.numbers("rlnClassNumber")
    else:
        numbers = np.array([int(name.removeprefix("cryogradClassProbability")) for name in chances])
        classes = numbers[np.argmax([columns.numbers(name) for name in chances], axis=0)]
    there = np.unique(classes)
    if number not in there:
        named = ", ".join(f"{one:g}" for one in there[:_NAMED])
        raise CryogradError(
            f"no particle is of class {number}", source, f"give one of {named}{', …' * (len(there) > _NAMED)}"
        )
    return classes == number


def _first_of_each(left: _Left, apart: float, alike: IntArray | None) -> BoolArray:
    """The first particle of each noise among those that are left."""
    number = noise_number(left.particles.select(left.rows), apart, alike)
    return _mask(left, left.rows[np.unique(number, return_index=True)[1]])


def _drawn(left: _Left, count: int, seed: int) -> BoolArray:
    """So many of the particles that are left, drawn at random."""
    if count > len(left.rows):
        what = f"{count} particles are asked for, and {len(left.rows)} are left"
        raise CryogradError(what, "--random", "give fewer, or leave it out")
    return _mask(left, generator(seed, Stream.SELECTION).permutation(left.rows)[:count])


def _mask(left: _Left, rows: IntArray) -> BoolArray:
    """Whether each of all particles is among some rows."""
    kept = np.zeros(len(left.particles), dtype=bool)
    kept[rows] = True
    return kept
