"""Simulated particles and their refinement, small enough for tests."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cryograd.config import Refine
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.engine.run import Run
from cryograd.engine.state import State
from cryograd.recipe import Moment, refine
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate

BOX, PIXEL, N = 32, 6.0, 240


def simulated(folder: Path) -> Particles:
    """Particles in a folder, and beside them their molecule as a start."""
    group, truth = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX), molecule(BOX, PIXEL)
    write_map(folder / "start.mrc", truth, PIXEL)
    return simulate(truth, PIXEL, Simulation(N, (group,), snr=0.3, seed=5), folder)


def configuration(folder: Path, **options: Any) -> Refine:
    """A refinement of the particles in a folder."""
    given = {
        "particles": folder / "particles.star",
        "output": folder / "run",
        "volume": (folder / "start.mrc",),
        "symmetry": SYMMETRY,
        "minibatch": 30,
        "start_resolution": 40.0,
        "max_shift": 12.0,
    }
    return Refine(**(given | options))


def last(moments: Iterable[Moment]) -> Moment:
    """The last moment of a run."""
    (moment,) = deque(moments, maxlen=1)
    return moment


def refined(particles: Particles, config: Refine) -> Moment:
    """The last moment of a refinement."""
    return last(refine(particles, config))


def before(moments: Iterator[Moment]) -> Moment:
    """A run as it is before its first iteration."""

    def idle(run: Run, state: State, shared: object = None) -> Iterator[State]:
        yield state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryograd.engine.parts.iterate", idle)
        return next(moments)


def through_a_file(moment: Moment) -> dict[str, Any]:
    """What is saved of a moment, as it comes back from a checkpoint."""
    file = io.BytesIO()
    torch.save(moment.saved(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def saving(moments: Iterable[Moment], saved: dict[int, dict[str, Any]], *numbers: int) -> Iterator[Moment]:
    """The same moments, of which some are saved by the number of iterations of the whole run until then."""
    for moment in moments:
        if len(moment.history) in numbers:
            saved[len(moment.history)] = through_a_file(moment)
        yield moment


def differences(one: Moment, other: Moment) -> list[str]:
    """What is not the same in all bytes in two moments, but for the time that they took."""
    return list(_differences(one.saved(), other.saved(), ""))


def differences_after(
    resumed: Callable[[dict[str, Any]], Iterable[Moment]],
    saved: dict[int, dict[str, Any]],
    whole: Moment,
    *spans: tuple[int, int],
) -> list[str]:
    """What is not the same in all bytes where a run goes on from moments that were saved of it.

    It goes on from the first to the second number of iterations of each span, as a run that has the bytes of
    another at any moment has them at the end, and to repeat all of it from each moment would take long.
    """
    found = []
    for start, end in spans:
        moment = next(one for one in resumed(saved[start]) if len(one.history) == end)
        expected = whole.saved() if end == len(whole.history) else saved[end]
        found += [f"{start} to {end}{where}" for where in _differences(moment.saved(), expected, "")]
    return found


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict):
        if one.keys() != other.keys():
            yield where
        for name in one.keys() - {"seconds"}:
            yield from _differences(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield where
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from _differences(*pair, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        # Numbers that are not a number are as equal as others.
        if one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num()):
            yield where
    elif one != other:
        yield where
