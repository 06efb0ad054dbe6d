import numpy as np
import pytest
from half_maps import ball, falling, filtered, halves, molecule, shell_power

from cryograd.validation.fsc import fsc, soft_sphere
from cryograd.validation.gold_standard import gold_standard
from cryograd.validation.sharpening import guinier, sharpened, signal_weights

SIZE, PIXEL = 64, 1.5
EXTENT = SIZE * PIXEL
MASK = soft_sphere(SIZE, 20, 6)


def a_map(b_factor):
    """Atoms at random places have even amplitudes; these fall off by a known B-factor."""
    shells = np.arange(2 * SIZE)
    return filtered(molecule(SIZE, 18, 3000), np.exp(-0.25 * b_factor * (shells / EXTENT) ** 2))


def measured(density, half, seed=0):
    (first, second), _ = halves(density, falling(SIZE, half, 2), seed)
    return first, second, gold_standard(first, second, MASK, PIXEL, seed)


@pytest.mark.parametrize("b_factor", [60.0, 200.0])
@pytest.mark.parametrize("half", [22.0, 27.0])
def test_the_b_factor_is_found_in_spite_of_noise(b_factor, half):
    first, second, correlation = measured(a_map(b_factor), half)
    found = guinier(0.5 * (first + second) * MASK, correlation)
    assert found.no_fit is None
    assert found.b_factor == pytest.approx(b_factor, abs=3 * found.error + 10)
    assert 0.0 < found.error < 25.0


def test_there_is_no_fit_where_the_resolution_is_too_coarse():
    first, second, correlation = measured(a_map(200.0), 4.0)
    assert correlation.resolution() > 8.0
    found = sharpened(first, second, MASK, correlation).guinier
    assert found.b_factor == 0.0
    assert "resolution of 6 Å" in found.no_fit


def test_there_is_no_fit_through_few_shells():
    density = a_map(200.0)[24:40, 24:40, 24:40]
    (first, second), _ = halves(density, falling(16, 5, 1))
    correlation = gold_standard(first, second, np.ones_like(density), 2.0, 0)
    assert correlation.resolution() < 6.0
    assert "shells" in guinier(density, correlation).no_fit


def test_amplitudes_that_rise_are_not_sharpened():
    first, second, correlation = measured(a_map(-60.0), 24.0)
    found = guinier(0.5 * (first + second) * MASK, correlation)
    assert found.b_factor == 0.0
    assert "do not fall off" in found.no_fit


def test_noise_is_left_as_it_is():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, SIZE, SIZE, SIZE)).astype(np.float32)
    correlation = gold_standard(first, second, np.where(ball(SIZE, 20), 1.0, 0.0), PIXEL, 0)
    result = sharpened(first, second, MASK, correlation)
    assert result.guinier.b_factor == 0.0
    assert result.guinier.no_fit is not None
    if correlation.resolution() is None:
        assert np.array_equal(result.density, 0.5 * (first + second))


def test_weights_are_the_means_correlation_with_the_truth():
    density = a_map(60.0)
    wanted = falling(SIZE, 20, 3)
    (first, second), _ = halves(density, wanted)
    values = fsc(0.5 * (first + second), density)[1]
    assert np.allclose(values[2:], signal_weights(wanted)[2:], atol=0.06)
    assert signal_weights([-0.5, 0.0, 1.0]).tolist() == [0.0, 0.0, 1.0]


def test_the_sharpened_map_has_the_amplitudes_of_the_signal_without_fall_off():
    density = a_map(150.0)
    first, second, correlation = measured(density, 24.0)
    result = sharpened(first, second, MASK, correlation)
    assert result.density.dtype == np.float32
    gain = shell_power(result.density) / shell_power(0.5 * (first + second))
    shells = np.arange(len(gain))
    k2 = (shells / EXTENT) ** 2
    expected = signal_weights(correlation.correlation) ** 2 * np.exp(0.5 * result.guinier.b_factor * k2)[:33]
    resolution = correlation.resolution()
    below = slice(2, int(EXTENT / resolution) - 1)
    # Weights are interpolated between shells.
    assert gain[below] == pytest.approx(expected[below], rel=0.05)
    left = shell_power(result.density)
    assert left[int(EXTENT / resolution) + 3 :].max() < 1e-9 * left.max()


def test_sharpening_keeps_the_correlation_with_the_truth():
    density = a_map(150.0)
    first, second, correlation = measured(density, 22.0)
    result = sharpened(first, second, MASK, correlation).density
    last = int(EXTENT / correlation.resolution()) - 1
    before = fsc(0.5 * (first + second), density)[1][2:last]
    assert np.allclose(fsc(result, density)[1][2:last], before, atol=0.02)
