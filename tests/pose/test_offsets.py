"""Offsets are found between the shifts that images were compared at, where images tell them so well."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.pose.offsets import offsets
from cryograd.pose.posterior import Batch, Cells, LocalPosterior, evaluate_local, mean_shifts
from cryograd.rotations import random_rotations

SIZE, EXTENT, CELL, N = 16, 40.0, 1.0, 6
DISC = HalfDisc(6.0)
FREQUENCIES = torch.from_numpy(DISC.frequencies / EXTENT)
BEST = torch.zeros((N, 1), dtype=torch.int64)


def compared(signal: float, reach: float = 3.0) -> tuple[LocalPosterior, Cells, Tensor]:
    """Images without noise at their true rotations and on a lattice of shifts, and their true shifts."""
    rng, projector, points = np.random.default_rng(2), Projector(SIZE, 6.0), slice_points(DISC)
    volume = torch.zeros(SIZE, SIZE, SIZE)
    for place in rng.integers(5, 12, (12, 3)):
        volume[tuple(place)] += 1.0
    grid = projector.transform(volume)
    rotations = torch.from_numpy(random_rotations(N, rng)).float()
    clean = projector.sample(grid, rotations, points)
    scale = signal / clean.abs().square().mean().sqrt()
    true = torch.from_numpy(rng.uniform(-1.5, 1.5, (N, 2))).float()
    images = scale * clean * shift_phases(FREQUENCIES, true)
    batch = Batch(images, torch.ones(images.shape), torch.zeros(N))
    along = torch.arange(-reach, reach + CELL, CELL) + 0.2
    lattice = torch.cartesian_prod(along, along).expand(N, -1, 2).contiguous()
    cells, flat = Cells(rotations[:, None], lattice, 0.1, CELL), torch.zeros(1, 1)
    local = evaluate_local(batch, cells, scale * grid, projector, points, FREQUENCIES, flat, flat)
    return local, cells, true


def errors(found: Tensor, true: Tensor) -> np.ndarray:
    return torch.linalg.vector_norm(found[:, 0] - true, dim=1).numpy()


def test_offsets_are_finer_than_the_lattice() -> None:
    local, cells, true = compared(signal=3.0)
    lattice = errors(mean_shifts(local.joint, cells.shifts, BEST), true)
    found = errors(offsets(local, cells, BEST, FREQUENCIES), true)
    assert np.median(lattice) > 0.2 * CELL
    assert found.max() < 0.1 * CELL
    assert np.median(found) < 0.1 * np.median(lattice)


def test_the_mean_is_kept_where_images_say_little() -> None:
    local, cells, _ = compared(signal=0.05)
    found = offsets(local, cells, BEST, FREQUENCIES)
    assert torch.equal(found, mean_shifts(local.joint, cells.shifts, BEST))


@pytest.mark.parametrize("signal", [0.05, 3.0])
def test_offsets_stay_within_a_cell_of_what_was_compared(signal: float) -> None:
    """The lattice does not reach as far as the particles are off."""
    local, cells, _ = compared(signal, reach=0.0)
    found = offsets(local, cells, BEST, FREQUENCIES)
    assert float((found - cells.shifts[:, :1]).abs().max()) <= CELL
