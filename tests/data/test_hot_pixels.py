"""Pixels far outside their image's noise, and what is no such pixel."""

import numpy as np
import pytest

from cryograd.data.hot_pixels import hot_pixels, without_hot_pixels

BOX = 32


@pytest.fixture
def images() -> np.ndarray:
    """Normal noise around 100."""
    return np.random.default_rng(0).normal(100.0, 1.0, (5, BOX, BOX)).astype(np.float32)


@pytest.mark.parametrize("place", [(0, 0), (16, 16), (31, 4)])
@pytest.mark.parametrize("value", [-200.0, 130.0, 30000.0])
def test_a_hot_pixel_is_found_and_replaced(images: np.ndarray, place: tuple[int, int], value: float) -> None:
    before = images.copy()
    images[3][place] = value
    assert hot_pixels(images) == [(3, *place)]
    mended = without_hot_pixels(images)
    assert abs(mended[3][place] - 100.0) < 2.0
    mended[3][place] = before[3][place]
    assert np.array_equal(mended, before)


def test_pixels_that_were_spread_by_resampling_are_found(images: np.ndarray) -> None:
    images[1, 8:10, 20:22] = 400.0
    assert len(hot_pixels(images)) == 4
    assert np.abs(without_hot_pixels(images) - 100.0).max() < 6.0


def test_noise_and_wide_signal_have_none(images: np.ndarray) -> None:
    assert without_hot_pixels(images) is images
    axis = np.arange(BOX) - BOX // 2
    bead = 60.0 * np.exp(-0.5 * (axis**2 + axis[:, None] ** 2) / 1.5**2)
    assert hot_pixels(images + bead) == []


def test_images_without_noise_are_left_as_they_are() -> None:
    clean = np.zeros((2, BOX, BOX), dtype=np.float32)
    clean[0, 12:20, 12:20] = 5.0
    clean[1, 16, 16] = 7.0
    assert without_hot_pixels(clean) is clean
