import pytest
import torch

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.objective.shrinkage import LARGEST_RATIO, noise_to_signal, shell_means, wiener_precision

SIZE = 32


def white(seed):
    return torch.randn(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def coloured(seed, spectrum):
    return inverse_fourier_3d(fourier_3d(white(seed)) * spectrum, SIZE)


def test_shell_means_are_the_means_of_rounded_radii():
    values = fourier_3d(white(0)).abs()
    shell = radius_grid(SIZE, 3).round()
    means = shell_means(values)
    for radius in (0.0, 3.0, 15.0):
        assert means[shell == radius].unique().item() == pytest.approx(
            float(values[shell == radius].mean()), rel=1e-5
        )


def test_the_ratio_of_a_known_signal_and_noise_is_found():
    radius = radius_grid(SIZE, 3)
    signal = coloured(0, 3.0 * torch.exp(-radius / 8.0))
    ratio = noise_to_signal(signal + white(1), white(2))
    for r in (6, 10, 14):
        here = radius.round() == r
        expected = 1.0 / (9.0 * float(torch.exp(-radius[here] / 4.0).mean()))
        assert float(ratio[here].mean()) == pytest.approx(expected, rel=0.15)


def test_nothing_is_shrunk_before_there_is_a_difference():
    assert noise_to_signal(white(0), torch.zeros(SIZE, SIZE, SIZE)).abs().max() == 0.0
    assert noise_to_signal(torch.zeros(SIZE, SIZE, SIZE), torch.zeros(SIZE, SIZE, SIZE)).max() == 0.0


def test_noise_alone_is_shrunk_to_the_bound():
    ratio = noise_to_signal(white(1), 2.0 * white(2))
    # Shells of few coefficients, around DC and in the corner, are left to chance.
    radius = radius_grid(SIZE, 3)
    assert (ratio[(radius > 3.0) & (radius < 20.0)] == LARGEST_RATIO).all()


def test_the_maximum_a_posteriori_is_the_wiener_filter():
    # A likelihood whose Hessian is the diagonal of the given row sums.
    radius = radius_grid(SIZE, 3)
    signal = coloured(0, 3.0 * torch.exp(-radius / 8.0))
    likeliest, difference = signal + white(1), white(2)
    curvature = torch.full_like(radius, 7.0).float()
    precision = wiener_precision(noise_to_signal(likeliest, difference), curvature)
    found = fourier_3d(likeliest) / (1.0 + precision / curvature)
    # It is closer to the signal than the likeliest map, and no other scale of a shell is closer.
    for r in (6, 12):
        here = radius.round() == r
        truth = fourier_3d(signal)[here]
        errors = [float((scale * found[here] - truth).abs().square().sum()) for scale in (0.6, 1.0, 1.6)]
        assert errors[1] == min(errors)


def test_frequencies_that_are_not_open_get_no_precision():
    radius = radius_grid(SIZE, 3)
    curvature = (radius <= 8.3).float()
    ratio = noise_to_signal(coloured(0, torch.exp(-radius / 8.0)) + white(1), white(2))
    precision = wiener_precision(ratio, curvature)
    assert precision[(radius > 8.3) & (radius.round() == 8)].max() == 0.0
    assert precision[radius <= 8.3].min() > 0.0
