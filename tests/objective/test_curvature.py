"""The curvature against the Hessian of the complete data, by automatic differentiation."""

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.symmetry import group_matrices
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.pose.posterior import Statistics
from cryograd.rotations import random_rotations


def interpolated(spectrum, points):
    """Values at points (n, 3) of a full, centred transform, by torch's own trilinear sampling."""
    half = spectrum.shape[-1] // 2
    channels = torch.view_as_real(spectrum).movedim(-1, 0)[None]
    values = torch.nn.functional.grid_sample(
        channels, (points / half)[None, None, None], mode="bilinear", align_corners=True
    )
    return torch.complex(*values[0, :, 0, 0])


def centred_spectrum(volume):
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(volume)))


def random_statistics(n, size, radius, seed=3):
    rng = np.random.default_rng(seed)
    disc = HalfDisc(radius)
    power = torch.from_numpy(rng.uniform(0.1, 2, (n, len(disc))))
    rotations = torch.from_numpy(random_rotations(n, rng))
    unused = torch.zeros(n, len(disc), dtype=torch.complex64)
    return Statistics(rotations.float(), unused, unused, power.float(), None), rotations, power, disc


def curvature_of(objective, statistics):
    """Row sums of the Hessian of given statistics."""
    grid = objective.projector.insert(
        statistics.power.to(torch.complex64), statistics.rotations, slice_points(objective.disc)
    )
    return objective.curvature(objective.symmetrised(grid[..., 0]))


@pytest.mark.parametrize("name", ["C1", "C2", "D2"])
def test_curvature_is_the_row_sums_of_the_complete_data_hessian(name):
    size, radius = 9, 3.0
    statistics, rotations, power, disc = random_statistics(4, size, radius)
    points = slice_points(disc, dtype=torch.float64)
    where = torch.einsum("jba,kb->jka", rotations, points).reshape(-1, 3)
    flips = {"C1": [()], "C2": [(), (1, 2)], "D2": [(), (1, 2), (0, 1), (0, 2)]}[name]

    def misfit(volume):
        symmetric = torch.stack([volume.flip(f) if f else volume for f in flips]).mean(dim=0)
        values = interpolated(centred_spectrum(symmetric), where)
        return (power.flatten() * values.abs().square()).sum()

    # All coefficients of a point at the centre are one: the Hessian times it is the Hessian's row sums.
    point = torch.zeros(size, size, size, dtype=torch.float64)
    point[size // 2, size // 2, size // 2] = 1.0
    point.requires_grad_()
    (gradient,) = torch.autograd.grad(misfit(point), point)
    row_sums = torch.fft.rfftn(torch.fft.ifftshift(gradient))
    assert row_sums.imag.abs().max() < 1e-9 * row_sums.abs().max()

    found = curvature_of(MarginalLikelihood(size, 20.0, radius, name), statistics)
    assert found.shape == row_sums.shape
    kz, ky, kx = np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2, np.arange(size // 2 + 1), indexing="ij")
    ball = torch.from_numpy(kx**2 + ky**2 + kz**2 <= radius**2)
    assert torch.allclose(found[ball].double(), row_sums.real[ball], rtol=1e-4, atol=1e-4 * found.max())
    assert not found[~ball].any()


def test_dividing_by_the_curvature_is_newtons_step_where_slices_hit_the_nodes():
    size, radius, disc = 12, 4.5, HalfDisc(4.5)
    # The rotations of a cube take the grid to itself, so that nothing is interpolated.
    rotations = torch.from_numpy(group_matrices("O"))
    generator = torch.Generator().manual_seed(0)
    power = 0.1 + torch.rand(len(rotations), len(disc), dtype=torch.float64, generator=generator)
    unused = torch.zeros(power.shape, dtype=torch.complex64)
    statistics = Statistics(rotations.float(), unused, unused, power.float(), None)
    curvature = curvature_of(MarginalLikelihood(size, 20.0, radius), statistics).double()

    truth = torch.randn(size, size, size, dtype=torch.float64, generator=generator)
    where = torch.einsum("jba,kb->jka", rotations, slice_points(disc, dtype=torch.float64))
    kx, ky, kz = where.round().long().unbind(-1)

    def slices(volume):
        return torch.fft.fftn(torch.fft.ifftshift(volume))[kz % size, ky % size, kx % size]

    def misfit(volume):
        return (power * (slices(volume) - slices(truth)).abs().square()).sum()

    start = torch.zeros_like(truth, requires_grad=True)
    (gradient,) = torch.autograd.grad(misfit(start), start)
    spectrum = torch.fft.rfftn(torch.fft.ifftshift(gradient))
    step = torch.where(curvature > 0, spectrum / curvature.clamp(min=1e-12), 0)
    stepped = -torch.fft.fftshift(torch.fft.irfftn(step, s=(size, size, size)))
    assert misfit(stepped) < 1e-9 * misfit(torch.zeros_like(truth))
