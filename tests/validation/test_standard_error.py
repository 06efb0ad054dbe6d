"""Standard errors against noise of known size: the exact Hessian's, symmetrised, and of two levels."""

from functools import partial

import numpy as np
import pytest
import torch
from half_maps import ball

from cryograd.fourier import lowpass_volume, lowpass_window, radius_grid
from cryograd.model.projection import slice_points
from cryograd.model.symmetry import Symmetrizer
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.objective.shrinkage import shell_means
from cryograd.rotations import random_rotations
from cryograd.steps.conjugate_gradient import conjugate_gradient
from cryograd.steps.protocol import Spectrum
from cryograd.validation.standard_error import expected_map, expected_variance, standard_error

SIZE, PIXEL = 32, 2.0
EXTENT = SIZE * PIXEL


def white(size, radius, draws, seed=0):
    """Noise (draws, L, L, L) of variance 1 in each voxel before it is cut to a ball, and what shells add."""
    noise = torch.from_numpy(np.random.default_rng(seed).standard_normal((draws, size, size, size)))
    cut = torch.stack([lowpass_volume(map_, radius) for map_ in noise]).numpy()
    shells = np.rint(radius_grid(size, 3).numpy()).astype(int)
    pairs = np.where(np.arange(size // 2 + 1) % (size // 2) == 0, 1.0, 2.0)
    power = lowpass_window(radius_grid(size, 3), radius).numpy() ** 2 * pairs
    return cut, np.bincount(shells.ravel(), power.ravel())[: size // 2 + 1] / size**3


def test_noise_of_the_likeliest_map_at_known_poses():
    """Solved from images of noise alone, with CTFs, by the Hessian and the ridge of a refinement."""
    size, radius, n, draws, ridge = 20, 7.0, 400, 20, 1e-3
    rng = np.random.default_rng(1)
    likelihood = MarginalLikelihood(size, 60.0, radius)
    projector, disc = likelihood.projector, likelihood.disc
    points = slice_points(disc)
    rotations = torch.from_numpy(random_rotations(n, rng)).float()
    phases = rng.uniform(0.05, 0.10, (n, 1)) * (disc.frequencies**2).sum(axis=1) + 0.5
    ctf = torch.from_numpy(np.sin(phases)).float()
    weights = projector.insert(ctf.square().to(torch.complex64), rotations, points)[..., 0] / n
    curvature = likelihood.curvature(weights)
    precision = ridge * shell_means(curvature)
    spectrum = Spectrum.of_voxels(size, radius, torch.device("cpu"))
    inverse = torch.where(curvature > 0.0, 1.0 / (curvature + precision), 0.0)

    def hessian(volume):
        return likelihood.normal(weights, volume) + spectrum.scaled(volume, 8.0 / 27.0 * precision)

    def drawn():
        noise = torch.from_numpy(rng.normal(0.0, np.sqrt(0.5), (n, len(disc), 2))).float()
        slices = ctf * torch.view_as_complex(noise)
        score = 2.0 / n * projector.transform_adjoint(projector.insert(slices, rotations, points))
        return conjugate_gradient(hessian, score, partial(spectrum.scaled, factors=inverse), 24, 1e-3)

    inside = ball(size, 8)
    found = np.mean([drawn().numpy()[inside].var() for _ in range(draws)])
    assert expected_variance(curvature, n, ridge).sum() == pytest.approx(found, rel=0.08)


@pytest.mark.parametrize("symmetry", ["D2", "C3"])
def test_noise_is_larger_on_symmetry_axes(symmetry):
    size, radius = 20, 5.0
    noise, shells = white(size, radius, 150)
    average = Symmetrizer(symmetry, size, radius + 2.0)
    found = torch.stack([average.forward(torch.from_numpy(map_).float()) for map_ in noise]).var(dim=0)
    expected = expected_map(shells, size * PIXEL, size, PIXEL, symmetry)
    inside = ball(size, 8)
    # 150 draws have a standard error of 12 %.
    error = found.numpy()[inside] / expected[inside] - 1.0
    assert np.sqrt((error**2).mean()) < 0.16
    assert abs(error.mean()) < 0.03
    centre, z_axis = expected[10, 10, 10], expected[3, 10, 10]
    assert centre == pytest.approx(shells.sum())
    assert z_axis == pytest.approx(shells.sum() * (0.5 if symmetry == "D2" else 1.0), rel=0.02)
    assert expected[10, 16, 16] == pytest.approx(shells.sum() / {"D2": 4, "C3": 3}[symmetry], rel=0.1)


def errors_of(noise, shells, **options):
    given = {"resolution": 6.0, "variance": shells, "extent": EXTENT, "symmetry": "C1"} | options
    first, second = noise.astype(np.float32)
    return standard_error(first, second, PIXEL, **given)


def test_the_error_is_that_of_the_low_passed_mean():
    """Whatever level is expected, and in the unit of the maps."""
    noise, shells = white(SIZE, 14.0, 2)
    plain = errors_of(noise, 0.5 * shells)
    fewer = white(SIZE, EXTENT / 6.0, 1)[1].sum()
    assert (plain.values**2).mean() == pytest.approx(0.5 * fewer, rel=0.05)
    assert plain.excess.mean() == pytest.approx(1.0, rel=0.05)
    assert plain.values.std() < 0.1 * plain.values.mean()
    lower = errors_of(noise, 0.125 * shells)
    assert np.allclose(lower.values, plain.values, rtol=1e-5)
    assert np.allclose(lower.excess, 4.0 * plain.excess, rtol=1e-5)
    assert np.allclose(errors_of(3.0 * noise, shells).values, 3.0 * plain.values, rtol=1e-5)
    signal = np.random.default_rng(2).normal(size=(SIZE,) * 3)
    assert np.allclose(errors_of(noise + signal, 0.5 * shells).values, plain.values, rtol=1e-3)


def test_the_error_follows_noise_that_differs_by_place():
    noise, shells = white(SIZE, 14.0, 2)
    away = np.abs(np.arange(SIZE) - SIZE // 2)
    louder = np.where(away < 7, 3.0, 1.0) * noise
    found = errors_of(louder, 0.5 * shells).values / errors_of(noise, 0.5 * shells).values
    assert found[:, :, away < 2].mean() == pytest.approx(3.0, rel=0.05)
    assert found[:, :, away > 14].mean() == pytest.approx(1.0, rel=0.05)
