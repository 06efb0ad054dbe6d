"""Local resolution, against maps whose correlation is known."""

import numpy as np
import pytest
import torch

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from cryograd.validation.local_resolution import local_resolution

# The signal's power is exp(-B k² / 2), k in 1/voxel.
B_FACTOR = 120.0


def white(size, seed):
    return torch.randn((size,) * 3, generator=torch.Generator().manual_seed(seed))


def signal(size, seed=0):
    k = radius_grid(size, 3).float() / size
    return inverse_fourier_3d(fourier_3d(white(size, seed)) * torch.exp(-B_FACTOR * k**2 / 4), size)


def noise_level(frequency):
    """Standard deviation of white noise that makes the FSC 1/7 = 0.143 at a frequency in 1/voxel."""
    return np.sqrt(6.0 * np.exp(-B_FACTOR * frequency**2 / 2))


def halves(level, size=64):
    return [signal(size) + level * white(size, seed) for seed in (1, 2)]


def sphere(size=64, radius=0.42):
    return torch.from_numpy(soft_sphere(size, radius * size, 3)).float()


@pytest.mark.parametrize(("fine", "coarse"), [(0.3, 0.2), (0.4, 0.25)])
def test_regions_of_different_noise_have_their_own_resolution(fine, coarse):
    x = torch.arange(64) - 32
    right = torch.sigmoid(x.float())
    level = right * noise_level(fine) + (1 - right) * noise_level(coarse)
    pixel = 1.7
    found = local_resolution(*halves(level), sphere(), pixel)
    inside = sphere() > 0.9
    for frequency, side in ((fine, x > 8), (coarse, x < -8)):
        median = float(found[inside & side].median())
        assert median == pytest.approx(pixel / frequency, rel=0.05)


@pytest.mark.parametrize("frequency", [0.2, 0.3, 0.4])
def test_of_a_uniform_map_is_the_global_resolution(frequency):
    mask = sphere()
    pair = halves(noise_level(frequency))
    overall = resolution_at(fsc(*[half * mask for half in pair])[1], 0.143, 64, 1.0)
    median = float(local_resolution(*pair, mask, 1.0)[mask > 0.5].median())
    assert median == pytest.approx(overall, rel=0.07)
    assert median == pytest.approx(1.0 / frequency, rel=0.05)


def test_stays_between_nyquist_and_a_quarter_of_the_box():
    mask = sphere(size=48)
    same, other = white(48, 0), white(48, 1)
    assert np.allclose(local_resolution(same, same, mask, 2.0)[mask > 0.5], 4.0)
    for a, b in ((same, other), (same, -same), (same, torch.zeros_like(same))):
        assert np.allclose(local_resolution(a, b, mask, 2.0), 24.0)


def test_says_nothing_outside_the_mask():
    mask = sphere(size=48, radius=0.2)
    found = local_resolution(*halves(0.1, size=48), mask, 1.0)
    assert torch.isfinite(found).all()
    assert (found[mask == 0.0] == 12.0).all()
    assert found[24, 24, 24] < 6.0


def test_neither_scale_nor_filter_of_the_half_maps_matters():
    a, b = halves(noise_level(0.3), size=48)
    mask = sphere(size=48)
    plain = local_resolution(a, b, mask, 1.0)
    sharpen = torch.exp(6.0 * (radius_grid(48, 3).float() / 48) ** 2)
    a, b = (inverse_fourier_3d(fourier_3d(half) * sharpen, 48) for half in (100.0 * a, 0.01 * b))
    changed = local_resolution(a, b, mask, 1.0)
    assert torch.isclose(changed, plain, rtol=0.01).float().mean() > 0.99


def test_a_box_of_odd_size():
    a, b = halves(noise_level(0.3), size=45)
    mask = sphere(size=45)
    assert float(local_resolution(a, b, mask, 1.0)[mask > 0.5].median()) == pytest.approx(3.33, rel=0.06)
