import numpy as np
import pytest

from cryograd.validation.fsc import fsc, resolution_at, soft_sphere


def full_fsc(a, b):
    """The same by the full transform, without any half-space bookkeeping."""
    size = len(a)
    k = np.fft.fftfreq(size, 1 / size)
    shells = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    fa, fb = np.fft.fftn(a).ravel(), np.fft.fftn(b).ravel()
    cross = np.bincount(shells, (fa * fb.conj()).real)
    norm = np.sqrt(np.bincount(shells, abs(fa) ** 2) * np.bincount(shells, abs(fb) ** 2))
    return (cross / norm)[: size // 2 + 1]


@pytest.mark.parametrize("size", [16, 17])
def test_agrees_with_the_full_transform(size):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(size,) * 3)
    b = a + rng.normal(size=a.shape)
    shells, values = fsc(a, b)
    assert np.array_equal(shells, np.arange(size // 2 + 1))
    assert np.allclose(values, full_fsc(a, b), atol=1e-12)


def test_of_a_map_with_itself_and_its_negative():
    a = np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)
    assert np.allclose(fsc(a, a)[1], 1.0, atol=1e-5)
    assert np.allclose(fsc(a, -3 * a)[1], -1.0, atol=1e-5)


def test_of_an_empty_map_is_zero():
    a = np.random.default_rng(0).normal(size=(12, 12, 12))
    assert (fsc(a, np.zeros_like(a))[1] == 0.0).all()


def test_follows_the_ratio_of_signal_to_noise():
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(48, 48, 48))
    a, b = (signal + 0.5 * rng.normal(size=signal.shape) for _ in range(2))
    assert np.allclose(fsc(a, b)[1][8:], 1 / 1.25, atol=0.05)


def test_refuses_maps_of_different_size():
    with pytest.raises(ValueError, match="not cubes of one size"):
        fsc(np.zeros((8, 8, 8)), np.zeros((9, 9, 9)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 0.6, 0.4, 0.0], 100 / 2.5),
        ([1, 1, 0.6, 0.4, 0.9], 100 / 2.5),
        ([0, 1, 1, 1, 1], 2 * 12.5),
        ([1, 0.4, 0.9, 0.9, 0.9], None),
        ([1, 1, 0.5, 0.4, 0.0], 100 / 2.0),
    ],
)
def test_resolution(values, expected):
    assert resolution_at(values, 0.5, 8, 12.5) == (None if expected is None else pytest.approx(expected))


def test_soft_sphere():
    mask = soft_sphere(17, 4, 3)
    assert mask[8, 8, 8] == 1.0
    assert mask[8, 8, 12] == 1.0
    assert 0.0 < mask[8, 8, 13] < 1.0
    assert mask[8, 8, 15] == 0.0
    assert soft_sphere(16, 4, 0).sum() == pytest.approx(4 / 3 * np.pi * 64, rel=0.05)
