"""Random starts."""

import numpy as np

from cryograd.simulation.blobs import random_blobs


def test_stays_inside_the_particle_and_is_not_negative() -> None:
    volume = random_blobs(32, 10.0, np.random.default_rng(0))
    axis = np.arange(32) - 16
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    assert volume.min() >= 0
    assert volume[r > 14].sum() < 0.01 * volume.sum()
    assert volume.dtype == np.float32


def test_the_generator_decides() -> None:
    first, again = (random_blobs(16, 6.0, np.random.default_rng(3)) for _ in range(2))
    other = random_blobs(16, 6.0, np.random.default_rng(4))
    assert np.array_equal(first, again)
    assert np.corrcoef(first.ravel(), other.ravel())[0, 1] < 0.95
