import numpy as np
import pytest
import torch

from cryograd.fourier import lowpass_volume
from cryograd.model.symmetry import Symmetrizer, group_matrices
from cryograd.rotations import angular_distance, random_rotations
from cryograd.validation.alignment import MIRROR_Z, align, transform_map
from cryograd.validation.fsc import fsc

SIZE = 32


def blobs(symmetry="C1"):
    rng = np.random.default_rng(5)
    axis = np.arange(SIZE) - SIZE // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    centres = rng.normal(0, SIZE / 9, (30, 3))
    volume = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4.0) for a, b, c in centres)
    volume = Symmetrizer(symmetry, SIZE, 14).forward(torch.from_numpy(volume))
    return lowpass_volume(volume, 12).float().numpy()


def errors(result, matrix, shift, symmetry="C1"):
    """Angle in degrees and distance from the inverse of x -> matrix x + shift, modulo the group."""
    found = result.rotation @ (MIRROR_Z if result.hand_flipped else np.eye(3))
    inverses = group_matrices(symmetry) @ matrix.T
    angles = angular_distance(found, inverses)
    nearest = int(np.argmin(angles))
    return np.rad2deg(angles[nearest]), np.linalg.norm(result.shift + inverses[nearest] @ shift)


def known_motion(flipped, seed):
    rng = np.random.default_rng(seed)
    rotation = random_rotations(1, rng)[0]
    return rotation @ MIRROR_Z if flipped else rotation, rng.normal(0, 2, 3)


@pytest.mark.parametrize(("flipped", "noise"), [(False, 0.0), (True, 0.0), (True, 0.5)])
def test_recovers_rotation_shift_and_hand(flipped, noise):
    reference = blobs()
    matrix, shift = known_motion(flipped, 2)
    moving = transform_map(reference, 1.0, matrix, shift, SIZE, 1.0)
    moving += noise * moving.std() * np.random.default_rng(0).normal(size=moving.shape)
    result = align(moving, reference)
    angle, distance = errors(result, matrix, shift)
    assert result.hand_flipped is flipped
    assert result.hand_margin > 0.1
    assert np.linalg.det(result.rotation) == pytest.approx(1.0)
    assert angle < (0.5 if noise else 0.1)
    assert distance < (0.1 if noise else 0.02)
    if not noise:
        assert result.correlation > 0.999
        assert fsc(result.volume, reference)[1][1:12].min() > 0.999


@pytest.mark.parametrize("symmetry", ["C7", "D7"])
def test_recovers_a_symmetric_map_up_to_its_group(symmetry):
    reference = blobs(symmetry)
    matrix, shift = known_motion(True, 3)
    moving = transform_map(reference, 1.0, matrix, shift, SIZE, 1.0)
    result = align(moving, reference)
    angle, distance = errors(result, matrix, shift, symmetry)
    assert result.hand_flipped
    assert angle < 0.2
    assert distance < 0.05


def test_brings_a_map_to_the_references_box_and_pixel_size():
    reference = blobs()
    matrix, shift = known_motion(False, 4)
    moving = transform_map(reference, 2.0, matrix, 2.0 * shift, 43, 1.7)
    result = align(moving, reference, moving_pixel_size=1.7, reference_pixel_size=2.0)
    angle, distance = errors(result, matrix, 2.0 * shift)
    assert angle < 0.1
    assert distance < 0.04
    assert result.volume.shape == reference.shape
    assert np.abs(result.volume - reference).max() < 0.03 * reference.max()


def test_hand_is_kept_if_asked():
    reference = blobs()
    result = align(reference[::-1], reference, flip_hand=False)
    assert not result.hand_flipped
    assert result.correlation < 0.95


def test_leaves_an_aligned_map_in_place():
    reference = blobs()
    result = align(reference, reference)
    assert errors(result, np.eye(3), np.zeros(3))[0] < 0.2
    assert np.linalg.norm(result.shift) < 0.02


def test_transform_map_moves_points_as_documented():
    volume = np.zeros((SIZE,) * 3, dtype=np.float32)
    volume[16 + 3, 16, 16 + 5] = 1.0  # y = 0, z = 3, x = 5
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to y
    moved = transform_map(volume, 2.0, quarter @ MIRROR_Z, np.array([2.0, 0.0, -4.0]), SIZE, 2.0)
    z, y, x = np.unravel_index(moved.argmax(), moved.shape)
    assert (x - 16, y - 16, z - 16) == (1, 5, -3 - 2)
