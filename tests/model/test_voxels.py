"""Slices of Fourier voxels against their definition, and their adjoints."""

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
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
