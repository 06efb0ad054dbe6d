import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from cryograd.model.symmetry import group_matrices
from cryograd.pose.quadrature import (
    RotationGrid,
    ShiftGrid,
    ShiftPrior,
    angular_spacing,
    split_rotations,
    split_shifts,
)
from cryograd.rotations import angular_distance, random_rotations


def distance_to(grid, rotations):
    """Angle from each rotation to the nearest one of a grid."""
    quaternions = Rotation.from_matrix(grid).as_quat()
    # Quaternions of opposite sign are one rotation; their chord of length c spans an angle 4 asin(c / 2).
    tree = KDTree(np.vstack([quaternions, -quaternions]))
    return 4.0 * np.arcsin(tree.query(Rotation.from_matrix(rotations).as_quat())[0] / 2.0)


@pytest.mark.parametrize("name", ["C1", "C3", "D2", "D7", "T", "O", "I"])
@pytest.mark.parametrize("spacing", [0.25, 0.13])
def test_every_rotation_is_within_the_spacing_of_the_grid_modulo_the_group(name, spacing):
    group = group_matrices(name)
    grid = RotationGrid.covering(spacing, group)
    assert grid.spacing <= spacing
    rotations = random_rotations(1500, np.random.default_rng(0))
    images = (rotations[:, None] @ group.swapaxes(1, 2)).reshape(-1, 3, 3)
    distance = distance_to(grid.matrices, images).reshape(len(rotations), -1).min(axis=1)
    # A lattice of squares or cubes reaches 0.71 or 0.87.
    assert distance.max() < 0.9 * grid.spacing
    # A much denser grid would waste work.
    assert distance.max() > 0.6 * grid.spacing


@pytest.mark.parametrize("name", ["C1", "C3", "D2", "D7", "T", "O", "I"])
def test_a_grid_on_the_asymmetric_unit_has_its_share_of_the_rotations(name):
    group = group_matrices(name)
    full = RotationGrid.covering(0.06, group_matrices("C1"))
    # HEALPix is not symmetric under the group, so that the unit's border has up to one pixel in ten twice.
    share = len(RotationGrid.covering(0.06, group).matrices) / len(full.matrices)
    assert 0.98 < share * len(group) < 1.15


def test_points_of_the_grid_represent_equal_volumes():
    grid = RotationGrid.covering(0.4, group_matrices("C1"))
    rotations = random_rotations(60 * len(grid.matrices), np.random.default_rng(1))
    tree = KDTree(np.vstack([q := Rotation.from_matrix(grid.matrices).as_quat(), -q]))
    nearest = tree.query(Rotation.from_matrix(rotations).as_quat())[1] % len(grid.matrices)
    counts = np.bincount(nearest, minlength=len(grid.matrices)) / 60
    # Of the scatter, 0.13 is that of counting.
    assert counts.std() < 0.3


def test_a_turned_grid_stays_a_grid_and_differs():
    grid = RotationGrid.covering(0.5, group_matrices("D2"))
    turned = grid.turned(np.random.default_rng(0))
    step = angular_distance(turned.matrices, grid.matrices)
    assert np.ptp(step) < 1e-9
    assert 0 < step[0] < np.sqrt(3) / 2 * grid.spacing
    # The molecule's side, on which the point group acts, has not been touched.
    assert np.allclose(
        turned.matrices[0].T @ turned.matrices[7], grid.matrices[0].T @ grid.matrices[7], atol=1e-12
    )


def test_spacing_is_a_fourier_pixel_at_the_radius():
    assert angular_spacing(20.0) == pytest.approx(np.arctan(0.05))


@pytest.mark.parametrize("side", [0.2, 0.05])
def test_children_of_a_rotation_cell_tile_it(side):
    rng = np.random.default_rng(0)
    parent = random_rotations(3, rng)
    children = split_rotations(torch.from_numpy(parent), side).numpy()
    assert children.shape == (3, 8, 3, 3)
    inside = rng.uniform(-0.5, 0.5, (8000, 3)) * side
    members = Rotation.from_rotvec(inside).as_matrix() @ parent[1]
    relative = members[:, None] @ children[1].swapaxes(1, 2)
    vectors = Rotation.from_matrix(relative.reshape(-1, 3, 3)).as_rotvec().reshape(8000, 8, 3)
    # A rotation belongs to the child within half of whose side it lies along every axis.
    reach = np.abs(vectors).max(axis=2)
    # Rotations do not commute: cells overlap and gape by a fraction of their side.
    assert reach.min(axis=1).max() < 0.25 * side * (1 + side)
    share = np.bincount(reach.argmin(axis=1), minlength=8) / 8000
    assert np.allclose(share, 1 / 8, atol=0.02)


def test_children_of_a_shift_cell_tile_it():
    rng = np.random.default_rng(0)
    parents = torch.from_numpy(rng.normal(size=(2, 5, 2)))
    children = split_shifts(parents, 3.0)
    assert children.shape == (2, 5, 4, 2)
    assert torch.allclose(children.mean(dim=2), parents)
    inside = parents[1, 2].numpy() + rng.uniform(-1.5, 1.5, (1000, 2))
    reach = np.abs(inside[:, None] - children[1, 2].numpy()).max(axis=2)
    assert (np.sort(reach, axis=1)[:, 0] <= 0.75).all()
    assert np.allclose(np.bincount(reach.argmin(axis=1)) / 1000, 1 / 4, atol=0.05)


@pytest.mark.parametrize("offset", [None, np.array([0.3, -0.4])])
def test_shifts_fill_the_circle_and_are_weighted_by_the_prior(offset):
    grid = ShiftGrid.covering(2.0, 9.0, ShiftPrior(4.0), offset)
    assert np.hypot(*grid.shifts.T).max() <= 9.0
    assert len(grid.shifts) == pytest.approx(np.pi * 9.0**2 / 2.0**2, rel=0.1)
    steps = (grid.shifts - grid.shifts[0]) / 2.0
    assert np.allclose(steps, np.rint(steps))
    weights = np.exp(grid.log_weights)
    assert weights.sum() == pytest.approx(1.0)
    density = np.exp(-0.5 * (grid.shifts**2).sum(axis=1) / 4.0**2)
    assert np.allclose(weights / weights[3], density / density[3])


def test_no_shift_leaves_one_point():
    grid = ShiftGrid.covering(2.0, 0.0, ShiftPrior(4.0))
    assert np.array_equal(grid.shifts, [[0.0, 0.0]])
    assert grid.log_weights == pytest.approx(0.0)
