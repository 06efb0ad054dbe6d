"""Images of two molecules, for tests of classes."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.simulation import molecule as made_up
from cryograd.simulation.simulate import Simulation, simulate

BOX, PIXEL, EACH = 32, 6.0, 120


def molecules() -> list[NDArray[np.float32]]:
    """Two made-up molecules of the same size and symmetry."""
    with pytest.MonkeyPatch.context() as patch:
        first = made_up.molecule(BOX, PIXEL)
        patch.setattr(made_up, "_SEED", 11)
        return [first, made_up.molecule(BOX, PIXEL)]


def two_molecules(folder: Path) -> Particles:
    """Images of two molecules, one after the other in one stack."""
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    simulate(molecules()[0], PIXEL, Simulation(2 * EACH, (optics,), snr=0.5, seed=5), folder)
    # The second half of the images is replaced by images of the other molecule at the same poses.
    simulate(molecules()[1], PIXEL, Simulation(2 * EACH, (optics,), snr=0.5, seed=5), folder / "other")
    with (
        mrcfile.open(folder / "particles.mrcs", "r+") as stack,
        mrcfile.open(folder / "other" / "particles.mrcs") as other,
    ):
        assert stack.data is not None
        assert other.data is not None
        stack.data[EACH:] = other.data[EACH:]
    return read_particles(folder / "particles.star")


def right(classes: NDArray[np.float64]) -> float:
    """Fraction of the images whose likelier class, by probabilities (n, 2), is that of their molecule."""
    second = np.arange(2 * EACH) >= EACH
    agree = float(np.mean((classes.argmax(axis=1) == 1) == second))
    return max(agree, 1.0 - agree)
