import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc, fourier_2d, pack_disc, radius_grid
from cryograd.model.noise import Noise, NoisePower, noise_from_corners

SIZE = 48


def coloured(n, variance, generator):
    """Real images whose unnormalised transform has the given variance per radius."""
    white = torch.fft.rfft2(torch.randn(n, SIZE, SIZE, generator=generator)) / SIZE
    spectrum = white * variance(radius_grid(SIZE, 2)).sqrt().float()
    return torch.fft.irfft2(spectrum, s=(SIZE, SIZE))


def falling(k):
    return 4000.0 * torch.exp(-k / 12.0) + 500.0


def flat(k):
    return torch.full_like(k, 9.0 * SIZE**2)


@pytest.mark.parametrize(("variance", "tolerance"), [(flat, 0.06), (falling, 0.10)])
@pytest.mark.parametrize("radius", [10.0, 22.0])
def test_noise_is_recovered_from_outside_the_circle(variance, tolerance, radius):
    images = coloured(300, variance, torch.Generator().manual_seed(0))
    # Whatever is well inside the circle does not count.
    axis = torch.arange(SIZE) - SIZE // 2
    inside = torch.hypot(axis[:, None].float(), axis.float()) < radius - 3
    images[:, inside] = 1e4
    noise = noise_from_corners(images, torch.zeros(300, dtype=torch.long), 1, radius)
    assert noise.variance.shape == (1, SIZE // 2 + 1)
    expected = variance(torch.arange(SIZE // 2 + 1).double())
    assert torch.allclose(noise.variance[0, 2:].double(), expected[2:], rtol=tolerance)
    # Shells 0 and 1 are guessed from the second.
    assert torch.equal(noise.variance[0, :2], noise.variance[0, 2].expand(2))


def test_each_optics_group_has_its_own_noise():
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([scale * torch.randn(100, SIZE, SIZE, generator=generator) for scale in (1.0, 3.0)])
    group = torch.arange(2).repeat_interleave(100)
    noise = noise_from_corners(images[::3], group[::3], 3, 15.0)
    assert noise.variance[1].mean() / noise.variance[0].mean() == pytest.approx(9.0, rel=0.05)
    # A group without images has none.
    assert not noise.variance[2].any()


def test_on_disc_is_the_expected_power_of_each_coefficient():
    generator, disc = torch.Generator().manual_seed(0), HalfDisc(15)
    images = coloured(2000, falling, generator)
    noise = Noise(torch.stack([falling(torch.arange(SIZE // 2 + 1).double()), torch.ones(25)]))
    expected = noise.on_disc(disc, torch.tensor([0, 1, 0]))
    assert expected.shape == (3, len(disc))
    assert torch.equal(expected[1], torch.ones(len(disc), dtype=torch.float64))
    power = pack_disc(fourier_2d(images), disc).abs().square().mean(dim=0)
    assert torch.allclose(power.double() / expected[0], torch.ones((), dtype=torch.float64), atol=0.15)
    assert (power / expected[2]).mean() == pytest.approx(1.0, abs=0.01)


def residuals(noise, truth, disc, group, generator):
    """|n|² / σ² of noise of variance ``truth`` whitened with another estimate of it."""
    n = torch.randn(len(group), len(disc), dtype=torch.complex64, generator=generator)
    return n.abs().square() * truth.on_disc(disc, group) / noise.on_disc(disc, group)


def test_updates_converge_to_the_noise_of_the_residuals():
    generator, disc = torch.Generator().manual_seed(0), HalfDisc(15)
    truth = Noise(torch.stack([falling(torch.arange(25).double()), flat(torch.arange(25).double())]).float())
    noise = Noise(torch.full((2, 25), 2000.0))
    group = torch.arange(2).repeat(50)
    for _ in range(30):
        residual = residuals(noise, truth, disc, group, generator)
        noise = noise.updated(NoisePower.of(disc.by_shell(residual), disc, group, noise), 0.2)
    assert torch.allclose(noise.variance[:, 1:16], truth.variance[:, 1:16], rtol=0.15)
    assert (noise.variance[:, 5:16] / truth.variance[:, 5:16]).mean() == pytest.approx(1.0, abs=0.03)
    # Shells that no coefficient is in stay as they were.
    assert torch.equal(noise.variance[:, 16:], torch.full((2, 9), 2000.0))


def test_rate_is_the_weight_of_the_minibatch():
    disc, noise = HalfDisc(4), Noise(torch.full((1, 10), 10.0))
    residual = torch.full((3, len(disc)), 3.0)
    seen = NoisePower.of(disc.by_shell(residual), disc, torch.zeros(3, dtype=torch.long), noise)
    updated = noise.updated(seen, 0.25)
    assert torch.allclose(updated.variance[0, 1:5], torch.tensor(10.0 * (0.75 + 0.25 * 3.0)))


def test_a_group_without_images_in_the_minibatch_is_not_touched():
    disc, noise = HalfDisc(4), Noise(torch.full((2, 10), 10.0))
    residual = torch.full((3, len(disc)), np.float32(3.0))
    seen = NoisePower.of(disc.by_shell(residual), disc, torch.ones(3, dtype=torch.long), noise)
    updated = noise.updated(seen, 0.5)
    assert torch.equal(updated.variance[0], noise.variance[0])
    assert torch.allclose(updated.variance[1, 1:5], torch.tensor(20.0))


def test_what_parts_of_a_minibatch_leave_adds_up():
    generator, disc, noise = torch.Generator().manual_seed(1), HalfDisc(6), Noise(torch.full((3, 10), 10.0))
    residual, group = torch.rand(7, len(disc), generator=generator), torch.tensor([0, 2, 0, 0, 2, 0, 2])

    def seen(images):
        return NoisePower.of(disc.by_shell(residual[images]), disc, group[images], noise)

    whole, parts = seen(slice(None)), seen(slice(0, 3)) + seen(slice(3, None))
    torch.testing.assert_close(parts.power, whole.power)
    assert torch.equal(parts.count, whole.count)
    shell = torch.as_tensor(disc.shells)
    for number in range(3):
        for radius in range(10):
            mine = residual[group == number][:, shell == radius].double()
            assert float(whole.power[number, radius]) == pytest.approx(float(mine.sum()), rel=1e-5)
            assert int(whole.count[number, radius]) == mine.numel()
