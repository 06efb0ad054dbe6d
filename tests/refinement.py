"""Simulated particles and their refinement, small enough for tests."""

from pathlib import Path

from cryograd.cli.molecule import SYMMETRY, molecule
from cryograd.config import Refine
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.simulate import Simulation, simulate
from cryograd.halves import Halves
from cryograd.refine import refine

BOX, PIXEL, N = 32, 6.0, 240


def simulated(folder: Path) -> Particles:
    """Particles in a folder, and beside them their molecule as a start."""
    group, truth = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX), molecule(BOX, PIXEL)
    write_map(folder / "start.mrc", truth, PIXEL)
    return simulate(truth, PIXEL, Simulation(N, (group,), snr=0.3, seed=5), folder)


def configuration(folder: Path, **options) -> Refine:
    """A refinement of the particles in a folder."""
    given = {
        "particles": folder / "particles.star",
        "output": folder / "run",
        "volume": folder / "start.mrc",
        "symmetry": SYMMETRY,
        "minibatch": 30,
        "start_resolution": 40.0,
        "max_shift": 12.0,
    }
    return Refine(**(given | options))


def run(particles: Particles, config: Refine) -> list[Halves]:
    """Its states."""
    return list(refine(particles, config))
