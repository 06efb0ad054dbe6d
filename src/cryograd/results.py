"""What a finished run gives: its maps, and what their halves tell of them, its particles, its numbers."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryograd.data.particles import Particles
from cryograd.data.star import as_numbers, particle_table
from cryograd.engine.frame import taken_out
from cryograd.engine.state import State
from cryograd.maps import Map
from cryograd.recipe import Moment
from cryograd.validation.half_maps import Findings
from cryograd.validation.standard_error import StandardError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ClassResult:
    """One map, and what its half maps say.

    Parameters
    ----------
    symmetry
        Point group.
    share
        Fraction of the particles whose likeliest class it is.
    members
        Whether each particle is one of these, shape (n,).
    volume
        The map; of half-sets their mean, filtered.
    halves
        The unfiltered half maps; None where there are no half-sets.
    findings, error
        What the half maps say, and the standard error of their mean; likewise.
    """

    symmetry: str
    share: float
    members: NDArray[np.bool_]
    volume: Map
    halves: tuple[Map, Map] | None = None
    findings: Findings | None = None
    error: StandardError | None = None

    @property
    def resolution(self) -> float | None:
        """Å at which the half maps' correlation falls below 0.143; None where there is no such point."""
        return None if self.findings is None else self.findings.correlation.resolution()

    def _map(self, values: NDArray[np.float32]) -> Map:
        return Map(values, self.volume.pixel_size)

    @property
    def maps(self) -> dict[str, Map]:
        """All maps by the names of their files."""
        found = {"volume": self.volume}
        if self.halves is not None and self.findings is not None and self.error is not None:
            found |= {
                "half1": self.halves[0],
                "half2": self.halves[1],
                "volume_sharpened": self._map(self.findings.sharpened.density),
                "mask": self._map(self.findings.mask.values),
                "local_resolution": self._map(self.findings.local_resolution),
                "standard_error": self._map(self.error.values),
            }
        return found


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Parameters
    ----------
    command
        ``abinitio``, ``refine`` or ``reconstruct``.
    classes
        The maps, in the order of their numbers.
    best
        Place of the one with most particles.
    mask
        Where the molecule was looked for.
    columns
        What is known of each particle beside its pose, in RELION's names, shape (n,) each.
    given, rotations, shifts
        The particles, with refined CTFs where these were looked for; their poses (n, 3, 3) and origins (n, 2)
        in Å.
    top_poses
        Rotations (n, R, 3, 3), shifts (n, R, 2) in Å and probabilities (n, R); None where they were not asked
        for.
    metrics
        The run in numbers, JSON-able.
    history
        One row for each iteration.
    symmetries
        Point groups that were looked for in the start, the best first; empty where none were.
    """

    command: str
    classes: tuple[ClassResult, ...]
    best: int
    mask: Map
    columns: dict[str, NDArray]
    given: Particles = field(repr=False)
    rotations: NDArray[np.float64] = field(repr=False)
    shifts: NDArray[np.float64] = field(repr=False)
    top_poses: tuple[NDArray, NDArray, NDArray] | None = field(repr=False)
    metrics: dict[str, Any]
    history: list[dict[str, Any]] = field(repr=False)
    symmetries: list[dict[str, Any]]

    @property
    def volume(self) -> Map:
        """The map of the class with most particles."""
        return self.classes[self.best].volume

    @property
    def maps(self) -> dict[str, Map]:
        """All maps of that class by the names of their files, such as ``half1`` and ``volume_sharpened``."""
        return {"mask": self.mask} | self.classes[self.best].maps

    @property
    def resolution(self) -> float | None:
        """Å by the half maps of that class, at FSC 0.143."""
        return self.classes[self.best].resolution

    @property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Correlation of that class's half maps against ``frequency`` in 1/Å; empty where there are none."""
        findings = self.classes[self.best].findings
        if findings is None:
            return {}
        found = findings.correlation
        return {
            "frequency": np.arange(len(found.corrected)) / found.extent,
            "fsc": found.correlation,
            "unmasked": found.unmasked,
            "masked": found.masked,
            "randomised": found.randomised,
        }

    @property
    def particles(self) -> "pd.DataFrame":
        """The particles with their poses, under RELION's names and in RELION's units."""
        return as_numbers(particle_table(self.given, self.rotations, self.shifts, self.columns))


def maps_so_far(particles: Particles, moment: Moment) -> list[dict[str, Map]]:
    """The maps of each class at a moment of a run, by the names of their files; of starts the best one's."""
    numbers = range(moment.run.classes) if moment.run.classes > 1 else [0]
    return [maps_of(particles, moment.state, number) for number in numbers]


def maps_of(particles: Particles, state: State, number: int) -> dict[str, Map]:
    """A class's map, and where there are half-sets their unfiltered maps."""
    tracks = state.tracks[number]

    def out(volume: Any) -> Map:
        return taken_out(state, particles, tracks[0].symmetry, volume)

    if len(tracks) == 1:
        return {"volume": out(tracks[0].volume)}
    halves = {f"half{half}": out(track.shown) for half, track in enumerate(tracks, 1)}
    return {"volume": out(0.5 * (tracks[0].volume + tracks[1].volume))} | halves
