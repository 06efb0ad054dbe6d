"""Particles made of random points, whose spectrum has no rings of its own."""

from pathlib import Path

import numpy as np

from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.simulation.simulate import Simulation, simulate

BOX, PIXEL_SIZE = 64, 2.5


def of_points(folder: Path, n: int, snr: float) -> Particles:
    """So many images, in a folder."""
    rng = np.random.default_rng(3)
    density = np.zeros((BOX,) * 3, dtype=np.float32)
    density[tuple(rng.integers(BOX // 2 - 10, BOX // 2 + 10, (3, 300)))] = 1.0
    optics = Optics("group", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL_SIZE, BOX)
    simulation = Simulation(n, (optics,), snr=snr, defocus=(8000.0, 16000.0))
    return simulate(density, PIXEL_SIZE, simulation, folder)
