import numpy as np
import pytest
from half_maps import ball, falling, filtered, halves, molecule, shell_numbers, shell_power
from scipy import ndimage

from cryograd.data.mrc import read_map
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from cryograd.validation.gold_standard import GoldStandard, gold_standard, randomise_phases
from cryograd.validation.masking import solvent_mask

SIZE, PIXEL = 48, 3.0
EXTENT = SIZE * PIXEL
N = SIZE // 2 + 1
MASK = soft_sphere(SIZE, 12, 5)


def a_molecule():
    """Amplitudes fall off as those of a map do, by three orders of magnitude."""
    return filtered(molecule(SIZE, 10, 2000), np.exp(-0.012 * np.arange(2 * SIZE) ** 2))


def in_mask(density, noise, mask):
    """Expected correlation where the mask keeps the signal and its share of the noise."""
    power = shell_power(density)
    return (power / (power + noise * np.mean(mask**2)))[: len(density) // 2 + 1]


@pytest.mark.parametrize("size", [16, 17])
def test_random_phases_keep_amplitudes_and_low_shells(size):
    density = np.random.default_rng(0).normal(size=(size,) * 3).astype(np.float32)
    other = randomise_phases(density, 5, np.random.default_rng(1))
    low = shell_numbers(size) < 5
    a, b = np.fft.rfftn(density), np.fft.rfftn(other)
    assert other.dtype == np.float32
    assert np.allclose(np.abs(a), np.abs(b), atol=1e-3)
    assert np.allclose(a[low], b[low], atol=1e-3)
    assert np.abs(fsc(density, other)[1][5:]).max() < 0.3


@pytest.mark.parametrize("half", [9.0, 15.0])
def test_correlations_are_those_of_the_known_signal_and_noise(half):
    density = a_molecule()
    wanted = falling(SIZE, half, 1.5)
    found = []
    for seed in range(4):
        (first, second), noise = halves(density, wanted, seed)
        found.append(gold_standard(first, second, MASK, PIXEL, seed))
    expected = in_mask(density, noise, MASK)
    assert np.allclose(np.mean([f.unmasked for f in found], axis=0)[2:], wanted[2:], atol=0.03)
    corrected = np.mean([f.corrected for f in found], axis=0)
    assert np.allclose(corrected[2:], expected[2:], atol=0.1)
    assert expected[int(half)] - wanted[int(half)] > 0.2
    assert not any(f.mask_too_tight for f in found)
    truth = resolution_at(expected, 0.143, SIZE, PIXEL)
    assert [f.resolution() for f in found] == pytest.approx([truth] * 4, rel=0.06)
    assert all(f.resolution(0.5) > f.resolution() for f in found)


def test_the_seed_decides():
    (first, second), _ = halves(a_molecule(), falling(SIZE, 10, 2))
    a, b, c = (gold_standard(first, second, MASK, PIXEL, seed) for seed in (3, 3, 4))
    assert np.array_equal(a.corrected, b.corrected)
    assert np.array_equal(a.masked, c.masked)
    assert not np.array_equal(a.corrected, c.corrected)


def test_few_coefficients_are_averaged_over_draws_and_neighbours():
    """The curve hardly depends on the draw, and steps of one shell are evened out."""
    (first, second), _ = halves(a_molecule(), falling(SIZE, 12, 3))
    small, beyond = soft_sphere(SIZE, 7, 3), slice(8, 22)
    curves = {
        order: np.array(
            [gold_standard(first, second, small, PIXEL, seed, order=order).corrected for seed in range(5)]
        )[:, beyond]
        for order in (None, 1)
    }
    assert curves[1].std(axis=0).mean() < 0.5 * curves[None].std(axis=0).mean()
    roughness = {order: np.abs(np.diff(curve, 2, axis=1)).mean() for order, curve in curves.items()}
    assert roughness[1] < 0.6 * roughness[None]
    assert np.allclose(curves[1].mean(), curves[None].mean(), atol=0.03)


def test_shells_that_say_nothing_are_not_averaged():
    """Of 24 copies a shell has too few coefficients of its own: where it shows no signal the claim ends."""
    (first, second), _ = halves(a_molecule(), falling(SIZE, 12, 3))
    found = gold_standard(first, second, soft_sphere(SIZE, 9, 4), PIXEL, 0, order=240)
    rest = 1.0 - found.randomised
    expected = np.clip((found.masked - found.randomised) / rest, -1.0, 1.0)
    assert found.randomised_from is not None
    assert np.allclose(found.corrected[found.randomised_from :], expected[found.randomised_from :])


def too_tight(density, share, edge):
    """A mask of the densest voxels with an edge of ``edge`` voxels."""
    core = density > np.quantile(density, 1.0 - share)
    beyond = ndimage.distance_transform_edt(~core) / edge
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0.0, 1.0))


@pytest.mark.parametrize("half", [7.0, 10.0, 12.0])
@pytest.mark.parametrize(("share", "edge"), [(0.02, 0.01), (0.01, 1.0), (0.01, 2.0)])
def test_a_tight_mask_does_not_make_resolution(half, share, edge):
    density = a_molecule()
    mask = too_tight(density, share, edge)
    (first, second), noise = halves(density, falling(SIZE, half, 1.5))
    found = gold_standard(first, second, mask, PIXEL, 0)
    # What a mask that keeps as little noise and cuts nothing would give.
    fair = resolution_at(in_mask(density, noise, mask), 0.143, SIZE, PIXEL)
    claimed = resolution_at(found.masked, 0.143, SIZE, PIXEL)
    assert claimed < 0.95 * fair
    assert found.resolution() > 0.95 * fair
    assert found.mask_too_tight
    assert found.resolution() == resolution_at(found.unmasked, 0.143, SIZE, PIXEL)


@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("mask", [MASK, soft_sphere(SIZE, 7, 3)], ids=["fair", "small"])
@pytest.mark.parametrize("order", [None, 1])
def test_noise_with_a_common_start_is_not_resolved_beyond_it(noise, mask, order):
    cut = 5
    start = filtered(molecule(SIZE, 10, 2000), np.where(np.arange(2 * SIZE) <= cut, 1.0, 0.0))
    finest = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pair = (start + rng.normal(0, noise * start.std(), start.shape) for _ in range(2))
        finest.append(gold_standard(*pair, mask, PIXEL, seed, order=order).resolution())
    # The crossing is interpolated between the last shell of the start and the next; one shell of noise may
    # exceed 0.143 by chance.
    assert np.median(finest) > EXTENT / (cut + 1)
    assert min(finest) > EXTENT / (cut + 2.5)


def test_maps_that_agree_everywhere_need_no_random_phases():
    density = a_molecule()
    found = gold_standard(density, density, MASK, PIXEL, 0)
    assert found.randomised_from is None
    assert not found.mask_too_tight
    assert found.resolution() == pytest.approx(2 * PIXEL)
    assert np.array_equal(found.corrected, found.masked)


def test_noise_alone_agrees_nowhere():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, SIZE, SIZE, SIZE))
    found = gold_standard(first, second, ball(SIZE, 15), PIXEL, 0)
    assert found.randomised_from == 1
    resolution = found.resolution()
    assert resolution is None or resolution > EXTENT / 4


@pytest.mark.realdata
def test_an_atomic_model_in_noise(shared_data):
    density, pixel = read_map(shared_data / "bgal-10204" / "reference_5a1a_64px.mrc")
    (first, second), noise = halves(density, falling(64, 20, 2))
    mask = solvent_mask((first + second) / 2, pixel, soft_sphere(64, 27, 4)).values
    found = gold_standard(first, second, mask, pixel, 0)
    expected = in_mask(density, noise, mask)
    assert np.allclose(found.corrected[3:], expected[3:], atol=0.08)
    assert found.resolution() == pytest.approx(resolution_at(expected, 0.143, 64, pixel), rel=0.02)
    assert not found.mask_too_tight


def test_a_claim_is_no_finer_than_what_images_were_looked_at_to() -> None:
    """Whatever the correlation says beyond: the mask carries some of what is resolved there."""
    values = np.where(np.arange(SIZE // 2 + 1) <= 12, 0.9, 0.2)
    extent = SIZE * PIXEL
    found = GoldStandard(SIZE, PIXEL, values, values, 0.0 * values, values, None, finest=extent / 12.0)
    assert found.resolution() == pytest.approx(extent / 12.0)
    assert found.resolution(0.5) == pytest.approx(extent / 12.0)
    assert found.resolution(0.95) == pytest.approx(resolution_at(values, 0.95, SIZE, PIXEL))


@pytest.mark.parametrize(
    ("resolved", "finest", "bound"), [(99, 0.0, True), (12, 0.0, False), (14, 12.0, True), (10, 12.0, False)]
)
def test_a_resolution_is_a_bound_where_nothing_finer_was_looked_at(
    resolved: int, finest: float, bound: bool
) -> None:
    values = np.where(np.arange(SIZE // 2 + 1) <= resolved, 0.9, 0.0)
    shortest = SIZE * PIXEL / finest if finest else 0.0
    found = GoldStandard(SIZE, PIXEL, values, values, 0.0 * values, values, None, finest=shortest)
    assert found.is_bound is bound


def test_the_step_at_the_end_of_a_start_is_not_smoothed_away():
    """Where noise follows on a start the first shell of it claims nothing of the last one of the start."""
    cut = 6
    start = filtered(molecule(SIZE, 10, 2000), np.where(np.arange(2 * SIZE) <= cut, 1.0, 0.0))
    rng = np.random.default_rng(0)
    pair = [start + rng.normal(0, 0.5 * start.std(), start.shape) for _ in range(2)]
    plain, averaged = (gold_standard(*pair, ball(SIZE, 20), PIXEL, 0, order=order) for order in (None, 1))
    assert plain.corrected[cut] > 0.5 > plain.corrected[cut + 1]
    assert averaged.resolution() == pytest.approx(plain.resolution(), rel=0.05)
