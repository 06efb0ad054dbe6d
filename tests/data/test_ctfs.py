from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryograd.data.ctfs import delocalisation
from cryograd.data.read import read_particles
from cryograd.model.ctf import ctf_phase


def test_delocalisation_is_the_gradient_of_the_phase(make_star: Callable[..., Path]) -> None:
    particles = read_particles(make_star())
    optics, frequency, step, change = particles.optics[0], 0.25, 1e-5, np.array([300.0, 0.0])
    found = delocalisation(particles, np.array([2, 0]), frequency, change)
    mean = torch.from_numpy(0.5 * (particles.defocus_u + particles.defocus_v)[[2, 0]] + change)
    k = torch.tensor([[frequency - step, 0.0], [frequency + step, 0.0]], dtype=torch.float64)
    phase = ctf_phase(k, optics.wavelength, optics.spherical_aberration, mean, mean, torch.zeros(2))
    expected = (phase[:, 0] - phase[:, 1]) / (2.0 * step * 2.0 * np.pi)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 40.0 < found.min() < found.max() < 60.0
