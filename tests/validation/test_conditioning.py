"""The conditioning of reconstruction at known poses, against theory and against dense matrices."""

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.voxels import FourierVoxels
from cryograd.rotations import random_rotations
from cryograd.validation.conditioning import FixedPoseHessian, condition_bound


def a_hessian(radius, n, interpolation, ctf=False, dtype=torch.float64):
    rng = np.random.default_rng(0)
    rotations = torch.from_numpy(random_rotations(n, rng)).to(dtype)
    k = 1 + len(HalfDisc(radius))
    power = torch.from_numpy(rng.uniform(0, 1, (n, k))).to(dtype) if ctf else torch.ones(1, k, dtype=dtype)
    return FixedPoseHessian.of(FourierVoxels(radius, interpolation), rotations, power, 0.01)


def dense(hessian):
    """H as a matrix of real and imaginary parts, (2N, 2N)."""
    n = len(hessian.voxels)
    columns = []
    for column in torch.eye(2 * n, dtype=torch.float64):
        image = hessian @ torch.complex(column[:n], column[n:])
        columns.append(torch.cat([image.real, image.imag]))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("ctf", [False, True])
def test_the_hessian_of_nearest_neighbour_slices_is_diagonal(ctf):
    hessian = a_hessian(3.0, 20, "nearest", ctf)
    matrix = dense(hessian)
    off = matrix - torch.diag(torch.diagonal(matrix))
    assert off.abs().max() == 0.0
    diagonal = hessian.diagonal()
    assert torch.allclose(torch.diagonal(matrix), torch.cat([diagonal, diagonal]))


def test_linear_slices_mix_neighbours():
    hessian = a_hessian(3.0, 20, "linear")
    matrix = dense(hessian)
    assert torch.allclose(matrix, matrix.T)
    assert (matrix - torch.diag(torch.diagonal(matrix))).abs().max() > 0.01
    diagonal = hessian.diagonal()
    assert torch.allclose(torch.diagonal(matrix), torch.cat([diagonal, diagonal]))


def test_one_probe_finds_the_diagonal_of_nearest_neighbour_slices():
    hessian = a_hessian(3.0, 20, "nearest", ctf=True)
    found = hessian.hutchinson_diagonal(1, torch.Generator().manual_seed(0))
    assert torch.allclose(found, hessian.diagonal())


def test_hutchinsons_error_falls_as_the_root_of_the_probes():
    hessian = a_hessian(3.0, 40, "linear", ctf=True)
    exact = torch.diagonal(dense(hessian))[: len(hessian.voxels)]
    probes, errors = (4, 16, 64, 256), []
    for number in probes:
        repeats = []
        for seed in range(10):
            found = hessian.hutchinson_diagonal(number, torch.Generator().manual_seed(100 * number + seed))
            repeats.append(float((found - exact).norm() / exact.norm()))
        errors.append(np.mean(repeats))
    law = np.array(errors) * np.sqrt(probes)
    assert np.abs(law / law.mean() - 1.0).max() < 0.1


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("within", [None, 3.0])
@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_extreme_eigenvalues_are_those_of_the_dense_matrix(interpolation, within, preconditioned):
    hessian = a_hessian(3.0, 30, interpolation, ctf=True)
    matrix = dense(hessian)
    if within is not None:
        inside = np.linalg.norm(hessian.voxels.frequencies, axis=1) <= within
        keep = torch.from_numpy(np.flatnonzero(np.tile(inside, 2)))
        matrix = matrix[keep][:, keep]
    if preconditioned:
        scale = matrix.diagonal().rsqrt()
        matrix = scale[:, None] * matrix * scale
    exact = torch.linalg.eigvalsh(matrix)
    found = hessian.extreme_eigenvalues(within, preconditioned)
    assert found.least == pytest.approx(float(exact[0]), rel=0.002)
    assert found.largest == pytest.approx(float(exact[-1]), rel=0.002)
    assert found.condition_number == pytest.approx(float(exact[-1] / exact[0]), rel=0.004)


def test_the_bound_is_the_papers_and_grows_as_the_radius():
    assert [round(condition_bound(size / 2 - 1), 1) for size in (64, 128, 192, 304)] == [
        41.5,
        84.1,
        126.7,
        201.4,
    ]
    assert condition_bound(95) == pytest.approx(4 * 95 / 3, rel=0.01)


def test_measured_condition_numbers_are_above_the_bound_and_grow_at_least_linearly():
    """Uniform poses, no CTF, nearest neighbour, all voxels within the radius hit: grids 32 and 64."""
    rotations = torch.from_numpy(random_rotations(10_000, np.random.default_rng(0))).float()
    found = {}
    for radius in (16.0, 32.0):
        disc = HalfDisc(radius)
        hessian = FixedPoseHessian.of(
            FourierVoxels(radius, "nearest"), rotations, torch.ones(1, 1 + len(disc))
        )
        least, largest = hessian.extreme_eigenvalues(radius)
        assert least > 10 * hessian.regularisation
        found[radius] = largest / least
        assert found[radius] > condition_bound(radius)
    assert found[32.0] / found[16.0] > 2.0
