import numpy as np
import pytest
import torch

from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume
from cryograd.model.symmetry import (
    Symmetrizer,
    group_matrices,
    in_asymmetric_unit,
)
from cryograd.rotations import euler_to_matrix, healpix_directions, random_rotations

ORDERS = {
    "C1": 1,
    "C7": 7,
    "D2": 4,
    "D7": 14,
    "T": 12,
    "O": 24,
    "I": 60,
    "I1": 60,
    "I2": 60,
    "I3": 60,
    "I4": 60,
}

# Axes of RELION's symmetry files that are not among our generators.
RELION_AXES = {
    "T": [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))],
    "O": [(4, (1, 0, 0)), (3, (0.5773502, 0.5773502, 0.5773502))],
    "D7": [(7, (0, 0, 1)), (2, (1, 0, 0))],
    "I1": [(3, (0.9341723640, 0.3568220765, 0)), (5, (0.85065080702670, 0, -0.5257311142635))],
    "I2": [(3, (0, 0.356822076, 0.934172364)), (5, (0.525731114, 0, 0.850650807))],
    "I3": [(3, (-0.4911234778630044, 0.3568220764705179, 0.7946544722917661))],
    "I4": [
        (3, (0.4911234778630044, 0.3568220764705179, 0.7946544722917661)),
        (5, (0.8944271932547096, 0, 0.4472135909903704)),
    ],
}


def rotation_about(axis, angle):
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def blobs(size, seed=0, n=20):
    rng = np.random.default_rng(seed)
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    centres = rng.normal(0, size / 10, (n, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 6.0) for a, b, c in centres)
    return torch.from_numpy(volume)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_group_has_its_order_and_is_closed(name, order):
    group = group_matrices(name)
    assert group.shape == (order, 3, 3)
    assert np.allclose(group[0], np.eye(3))
    assert np.allclose(group @ group.swapaxes(1, 2), np.eye(3), atol=1e-12)
    products = (group[:, None] @ group[None]).reshape(-1, 1, 9)
    nearest = np.abs(products - group.reshape(1, -1, 9)).max(axis=2).min(axis=1)
    assert nearest.max() < 1e-12


@pytest.mark.parametrize("name", RELION_AXES)
def test_group_contains_relions_axes(name):
    group = group_matrices(name)
    for fold, axis in RELION_AXES[name]:
        element = rotation_about(axis, 2 * np.pi / fold)
        assert np.abs(group - element).max(axis=(1, 2)).min() < 1e-5


def test_plain_i_is_i2_and_case_does_not_matter():
    assert np.array_equal(group_matrices("i"), group_matrices("I2"))


@pytest.mark.parametrize("name", ["", "C0", "D", "X3", "I5", "C-2", "C2 "])
def test_unknown_group_is_refused(name):
    with pytest.raises(CryogradError, match="unknown point group"):
        group_matrices(name)


@pytest.mark.parametrize("name", ["C1", "C7", "D2", "D7", "T", "O", "I1", "I3"])
def test_asymmetric_unit_has_one_of_each_orbit(name):
    group = group_matrices(name)
    directions = random_rotations(200, np.random.default_rng(1))[:, 2]
    images = np.einsum("gij,nj->ngi", group, directions)
    chosen = in_asymmetric_unit(images.reshape(-1, 3), group).reshape(len(directions), -1)
    assert (chosen.sum(axis=1) == 1).all()


@pytest.mark.parametrize("name", ["D2", "D7", "O", "I2"])
def test_asymmetric_unit_is_its_share_of_the_directions(name):
    group = group_matrices(name)
    angles = healpix_directions(16)
    directions = euler_to_matrix(np.pad(angles, ((0, 0), (0, 1))))[:, 2]
    share = in_asymmetric_unit(directions, group).mean()
    assert share * len(group) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("name", ["C1", "C2", "C7", "D2", "D7", "T", "O", "I1"])
@pytest.mark.parametrize("size", [16, 17])
def test_adjoint(name, size):
    rng = np.random.default_rng(3)
    a, b = (torch.from_numpy(rng.normal(size=(size,) * 3)) for _ in range(2))
    operator = Symmetrizer(name, size, 7 if size == 16 else 7.5)
    assert torch.isclose((operator.forward(a) * b).sum(), (a * operator.adjoint(b)).sum(), rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("D2", 1e-9), ("O", 1e-9), ("C3", 0.015), ("D7", 0.015), ("T", 0.02), ("I2", 0.02)],
)
def test_average_is_symmetric_and_idempotent(name, tolerance):
    operator = Symmetrizer(name, 32, 14)
    volume = lowpass_volume(blobs(32), 12)
    once = operator.forward(volume)
    twice = operator.forward(once)
    assert torch.linalg.norm(twice - once) < tolerance * torch.linalg.norm(once)


def test_average_of_d2_is_the_mean_of_the_flipped_volumes():
    volume = lowpass_volume(blobs(17), 6)
    images = [volume, volume.flip(0, 1), volume.flip(0, 2), volume.flip(1, 2)]
    mean = torch.stack(images).mean(dim=0)
    assert torch.allclose(Symmetrizer("D2", 17, 7.5).forward(mean), lowpass_volume(mean, 100), atol=1e-9)


def test_no_symmetry_leaves_the_volume_alone():
    volume = blobs(16)
    operator = Symmetrizer("C1", 16, 3)
    assert operator.forward(volume) is volume
    assert operator.adjoint(volume) is volume
