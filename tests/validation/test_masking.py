import numpy as np
import pytest
from half_maps import ball, filtered, molecule
from scipy import ndimage

from cryograd.data.mrc import read_map
from cryograd.validation.fsc import soft_sphere
from cryograd.validation.masking import solvent_mask, solvent_statistics

SIZE, PIXEL = 64, 3.0
SUPPORT = soft_sphere(SIZE, 27, 4)


def a_molecule():
    """A ball of atoms away from the centre, blurred, and where its density is."""
    centred = ndimage.gaussian_filter(molecule(SIZE, 9, 3000), 1.0)
    moved = np.roll(centred, (6, -5, 3), axis=(0, 1, 2))
    return moved / moved.max(), np.roll(ball(SIZE, 9), (6, -5, 3), axis=(0, 1, 2))


def in_noise(density, level, seed=0):
    noise = np.random.default_rng(seed).normal(size=density.shape)
    return density + level * density.std() * noise


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0, 6.0])
def test_the_molecule_is_kept_and_little_else(noise):
    density, where = a_molecule()
    mask = solvent_mask(in_noise(density, noise), PIXEL, SUPPORT)
    assert mask.threshold is not None
    assert mask.values.dtype == np.float32
    assert mask.values.min() == 0.0
    assert mask.values.max() == 1.0
    assert mask.values[where].mean() > 0.99
    # 6 Å and half of 12 Å beyond the ball, and what the low-pass blurs.
    assert mask.values.mean() < (12.0 / 9.0 * 1.5) ** 3 * where.mean()


def test_noise_alone_gives_the_support():
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=(SIZE, SIZE, SIZE))
        for density in (noise, filtered(noise, np.exp(-0.05 * np.arange(2 * SIZE)))):
            mask = solvent_mask(density, PIXEL, SUPPORT)
            assert mask.threshold is None
            assert np.allclose(mask.values, SUPPORT)


def test_an_empty_map_gives_the_support():
    assert solvent_mask(np.zeros((SIZE,) * 3), PIXEL, SUPPORT).threshold is None


def test_a_second_domain_is_kept_and_dust_is_not():
    x = np.arange(SIZE) - SIZE // 2
    far = [np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + (x - a) ** 2) for a in (-10, 12)]
    dust = np.sqrt((x[:, None, None] - 15) ** 2 + x[:, None] ** 2 + x**2)
    density = 1.0 * (far[0] < 8) + 0.5 * (far[1] < 5) + (dust < 2)
    values = solvent_mask(in_noise(density, 1.0), PIXEL, SUPPORT).values
    assert values[far[1] < 5].min() == 1.0
    assert values[dust < 2].max() < 0.5


def test_scale_and_offset_do_not_matter():
    density = in_noise(a_molecule()[0], 1.0)
    a, b = (solvent_mask(d, PIXEL, SUPPORT) for d in (density, 50.0 * density - 20.0))
    assert np.mean(np.abs(a.values - b.values)) < 1e-4


@pytest.mark.parametrize("pixel", [2.0, 3.0])
def test_edges_are_in_angstrom(pixel):
    density = soft_sphere(SIZE, 30.0 / pixel, 0)
    line = solvent_mask(density, pixel, soft_sphere(SIZE, 31, 0), extend=10.0, edge=12.0).values[
        SIZE // 2, SIZE // 2
    ]
    half_width = np.sum(line > 0.5) * pixel / 2
    # The core reaches to 0.2 of the density, a few Å beyond the sphere.
    assert 30.0 + 10.0 + 6.0 - pixel < half_width < 30.0 + 10.0 + 6.0 + 6.0
    assert np.sum((line > 0.0) & (line < 1.0)) * pixel / 2 == pytest.approx(12.0, abs=pixel)


def test_nothing_beyond_the_support():
    density, _ = a_molecule()
    support = soft_sphere(SIZE, 12, 2)
    assert (solvent_mask(density, PIXEL, support).values <= support + 1e-6).all()


def test_the_solvent_is_measured_beside_the_molecule():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(3.0, 0.5, 60_000), rng.normal(6.0, 1.5, 40_000)])
    centre, deviation = solvent_statistics(values)
    assert centre == pytest.approx(3.0, abs=0.1)
    assert deviation == pytest.approx(0.5, rel=0.15)


@pytest.mark.realdata
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_of_an_atomic_model(shared_data, noise):
    density, pixel = read_map(shared_data / "bgal-10204" / "reference_5a1a_64px.mrc")
    mask = solvent_mask(in_noise(density, noise), pixel, SUPPORT).values
    assert np.sum((density * mask) ** 2) > 0.99 * np.sum(density**2)
    # The protein has 5.6e5 Å³.
    assert 5.6e5 < mask.sum() * pixel**3 < 4 * 5.6e5
