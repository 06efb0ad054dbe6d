from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cryograd.data.optics import Optics
from cryograd.fourier import HalfDisc, fourier_2d, inverse_fourier_2d, pack_disc
from cryograd.images.resample import resample
from cryograd.model.aberrations import odd_phase

Array = NDArray[np.float64]

EXTENT, SIZE = 64.0, 32
MAGNIFICATION = ((1.04, 0.03), (-0.02, 0.95))


def optics(box: int, pixel: float) -> Optics:
    return Optics("g", 0.0197, 2.7e7, 0.1, pixel, box)


def gaussian(x: Array, y: Array) -> Array:
    """Off-centre Gaussians, within a box of 60 Å and band-limited to 1/8 Å to seven digits."""
    return np.exp(-((x - 5.0) ** 2 + (y + 3.0) ** 2) / 32.0) - 0.5 * np.exp(
        -((x + 4.0) ** 2 + (y - 2.0) ** 2) / 32.0
    )


def grid(box: int, pixel: float) -> tuple[Array, Array]:
    """x and y in Å of the pixels of a box."""
    axis = (np.arange(box) - box // 2) * pixel
    x, y = np.meshgrid(axis, axis)
    return x, y


def blob(box: int, pixel: float) -> Array:
    return gaussian(*grid(box, pixel))


def packed(images: Array, disc: HalfDisc) -> torch.Tensor:
    return pack_disc(fourier_2d(torch.from_numpy(images.astype(np.float64))), disc)


@pytest.mark.parametrize(("box", "pixel"), [(32, 2.0), (48, 1.5), (61, 1.05), (80, 0.8), (31, 2.2)])
def test_any_sampling_ends_on_the_same_working_grid(box: int, pixel: float) -> None:
    resampled = resample(blob(box, pixel)[None], optics(box, pixel), SIZE, EXTENT)
    assert resampled.dtype == np.float16
    assert resampled.shape == (1, SIZE, SIZE)
    # float16 keeps 11 bits of values up to 1.
    assert np.allclose(resampled[0], blob(SIZE, EXTENT / SIZE), atol=1e-3)


@pytest.mark.parametrize("pixel", [1.0, 1.1, 2.0 / 3.0, 3.54])
def test_nyquist_is_left_out(pixel: float) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 32, 32))
    found = np.abs(np.fft.fft2(resample(noise, optics(32, pixel), 32, 32 * pixel)[0].astype(np.float64)))
    assert found[16].max() < 0.1
    assert found[:, 16].max() < 0.1
    assert found[15].max() > 10.0


@pytest.mark.parametrize("size", [31, 32])
def test_resampling_to_the_same_grid_changes_nothing_below_nyquist(size: int) -> None:
    image, disc = np.random.default_rng(0).standard_normal((1, size, size)), HalfDisc(size / 2 - 1)
    before, after = (packed(i, disc) for i in (image, resample(image, optics(size, 2.0), size, 2.0 * size)))
    assert torch.allclose(before, after, atol=1e-3 * before.abs().max().item())


def test_odd_phases_are_undone() -> None:
    group = replace(
        optics(SIZE, EXTENT / SIZE), beam_tilt=(2e-2, -1e-2), odd_zernike=(3.0, 1.0, 200.0, 0, -90.0)
    )
    clean = torch.from_numpy(blob(SIZE, EXTENT / SIZE))
    ky, kx = np.meshgrid(
        np.fft.fftfreq(SIZE, EXTENT / SIZE), np.arange(SIZE // 2 + 1) / EXTENT, indexing="ij"
    )
    phase = odd_phase(
        torch.from_numpy(np.stack([kx, ky], axis=-1)),
        group.wavelength,
        group.spherical_aberration,
        group.beam_tilt,
        group.odd_zernike,
    )
    aberrated = inverse_fourier_2d(fourier_2d(clean) * torch.polar(torch.ones_like(phase), phase), SIZE)
    assert (aberrated - clean).abs().max() > 0.05
    assert np.allclose(resample(aberrated[None].numpy(), group, SIZE, EXTENT)[0], clean, atol=2e-3)


@pytest.mark.parametrize(("box", "pixel"), [(40, 2.0), (61, 1.3)])
def test_magnification_is_undone_in_real_space(box: int, pixel: float) -> None:
    # What lies truly at x is seen at Mᵀ x, as large as M says.
    group = replace(optics(box, pixel), magnification=MAGNIFICATION)
    true = np.stack(grid(box, pixel), axis=-1) @ np.linalg.inv(MAGNIFICATION)
    seen = gaussian(true[..., 0], true[..., 1])
    assert np.abs(seen - blob(box, pixel)).max() > 0.05
    assert np.allclose(resample(seen[None], group, SIZE, EXTENT)[0], blob(SIZE, EXTENT / SIZE), atol=1e-3)


def test_magnification_is_undone_for_all_frequencies_of_noise() -> None:
    box, pixel, size, extent, disc = 40, 1.6, 60, 80.0, HalfDisc(20)
    noise = np.random.default_rng(1).standard_normal((box, box))
    group = replace(optics(box, pixel), magnification=MAGNIFICATION)
    found = packed(resample(noise[None], group, size, extent), disc)[0]
    # X(M⁻¹ q) as a sum over pixels, in true areas and working pixels.
    k = (disc.frequencies / extent) @ np.linalg.inv(MAGNIFICATION).T
    x, y = (axis.ravel() for axis in grid(box, pixel))
    sums = np.exp(-2j * np.pi * (np.outer(k[:, 0], x) + np.outer(k[:, 1], y))) @ noise.ravel()
    expected = sums * (pixel * size / extent) ** 2 / np.linalg.det(MAGNIFICATION)
    assert np.abs(found.numpy() - expected).max() < 1e-3 * np.abs(expected).max()


def test_isotropic_magnification_is_a_smaller_pixel() -> None:
    noise = np.random.default_rng(2).standard_normal((2, 40, 40))
    larger = replace(optics(40, 1.6), magnification=((1.1, 0.0), (0.0, 1.1)))
    by_matrix, by_pixel = (resample(noise, group, SIZE, EXTENT) for group in (larger, optics(40, 1.6 / 1.1)))
    assert np.allclose(by_matrix, by_pixel, atol=2e-3)
    assert larger.nyquist == pytest.approx(optics(40, 1.6 / 1.1).nyquist)


def test_what_lies_beyond_the_working_box_does_not_come_back() -> None:
    smaller = replace(optics(32, 2.0), magnification=((0.85, 0.0), (0.0, 0.85)))
    image = np.zeros((1, 32, 32))
    image[0, :, 30] = 1.0
    assert np.abs(resample(image, smaller, SIZE, EXTENT)).max() < 1e-6
