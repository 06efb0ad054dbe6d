"""Slices of Fourier voxels against their definition, and their adjoints."""

import numba
import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model import stencil
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels
from cryograd.rotations import random_rotations

RADIUS = 4.0


def a_problem(interpolation, n=5):
    rng = np.random.default_rng(0)
    voxels = FourierVoxels(RADIUS, interpolation)
    values = torch.complex(*(torch.from_numpy(rng.normal(size=len(voxels))) for _ in range(2)))
    values[(voxels.frequencies == 0).all(axis=1)] = 1.3
    disc = slice_points(HalfDisc(RADIUS), dtype=torch.float64)
    points = torch.cat([torch.zeros_like(disc[:1]), disc])
    return voxels, values, torch.from_numpy(random_rotations(n, rng)), points


def value_at(voxels, values, k):
    """The coefficient at an integer frequency, whichever of the pair is kept."""
    for sign in (1, -1):
        found = np.flatnonzero((voxels.frequencies == sign * np.array(k)).all(axis=1))
        if len(found):
            return values[found[0]] if sign == 1 else values[found[0]].conj()
    raise AssertionError(k)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_slices_are_what_they_say(interpolation):
    voxels, values, rotations, points = a_problem(interpolation, n=2)
    found = voxels.slices(values, rotations, points)
    for j in range(len(rotations)):
        for number, point in enumerate(points):
            where = (rotations[j].T @ point).numpy()
            if interpolation == "nearest":
                expected = value_at(voxels, values, np.round(where).astype(int))
            else:
                low = np.floor(where).astype(int)
                expected = 0
                for corner in np.ndindex(2, 2, 2):
                    weight = np.prod(1.0 - np.abs(where - low - corner))
                    if weight > 1e-12:
                        expected = expected + weight * value_at(voxels, values, low + corner)
            assert complex(found[j, number]) == pytest.approx(complex(expected), abs=1e-9)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_adjoint_is_one(interpolation):
    voxels, values, rotations, points = a_problem(interpolation)
    generator = torch.Generator().manual_seed(1)
    shape = (len(rotations), len(points))
    slices = torch.complex(*torch.randn(2, *shape, dtype=torch.float64, generator=generator))
    left = (voxels.slices(values, rotations, points).conj() * slices).sum().real
    right = (values.conj() * voxels.adjoint(slices, rotations, points)).sum().real
    assert float(left) == pytest.approx(float(right), rel=1e-10)


def some_power(rotations, points, shared=False):
    rng = np.random.default_rng(2)
    return torch.from_numpy(rng.uniform(0, 1, (1 if shared else len(rotations), len(points))))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_product_without_slices_is_the_one_with_them(interpolation, shared):
    voxels, values, rotations, points = a_problem(interpolation)
    power = some_power(rotations, points, shared)
    slices = power * voxels.slices(values, rotations, points)
    expected = voxels.adjoint(slices, rotations, points)
    found = voxels.normal(voxels.weights(rotations, points, power), values)
    assert torch.allclose(found, expected, rtol=0, atol=1e-13 * float(expected.abs().max()))


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_diagonal_and_the_row_sums_are_those_of_the_dense_matrix(interpolation):
    voxels, _, rotations, points = a_problem(interpolation, n=3)
    power = some_power(rotations, points)
    weights = voxels.weights(rotations, points, power)
    n = len(voxels)
    basis = torch.eye(2 * n, dtype=torch.float64)
    dense = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    for number, v in enumerate(torch.complex(basis[:, :n], basis[:, n:])):
        column = voxels.adjoint(power * voxels.slices(v, rotations, points), rotations, points)
        dense[:, number] = torch.cat([column.real, column.imag])
    diagonal = voxels.diagonal(weights)
    assert torch.allclose(dense.diagonal(), torch.cat([diagonal, diagonal]), rtol=0, atol=1e-13)
    assert torch.allclose(dense[:n, :n].sum(dim=1), voxels.row_sums(weights), rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_weights_of_two_sets_of_images_add_up(interpolation):
    voxels, _, rotations, points = a_problem(interpolation)
    power = some_power(rotations, points)
    both = [voxels.weights(rotations[part], points, power[part]) for part in (slice(2), slice(2, None))]
    assert torch.allclose(sum(both), voxels.weights(rotations, points, power), rtol=0, atol=1e-13)


def test_the_weights_are_the_same_bytes_for_any_number_of_threads():
    voxels = FourierVoxels(9.0)
    rotations = torch.from_numpy(random_rotations(40, np.random.default_rng(3))).float()
    points = slice_points(HalfDisc(9.0))
    power = some_power(rotations, points).float()
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
            found.append(voxels.weights(rotations, points, power))
    finally:
        numba.set_num_threads(before)
    assert torch.equal(*found)
    # Parts of planes, whichever they are, cover every voxel once.
    for parts in (1, 2, 3, 7):
        bounds = stencil._bounds(parts, 11).astype(int)
        assert (bounds[0], bounds[-1]) == (0, 23 * 23 * 12)
        assert (np.diff(bounds) > 0).all()
