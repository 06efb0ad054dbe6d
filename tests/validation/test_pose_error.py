import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryograd.fourier import HalfDisc, lowpass_volume
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices
from cryograd.rotations import angular_distance, random_rotations
from cryograd.validation.alignment import MIRROR_Z, transform_map
from cryograd.validation.pose_error import pose_error

N = 600


def estimates(symmetry, flipped, spread, outliers, seed=0):
    """True poses, and estimates of them in another frame with errors of ``spread`` degrees."""
    rng = np.random.default_rng(seed)
    true, true_shifts = random_rotations(N, rng), rng.normal(0, 5, (N, 2))
    group = group_matrices(symmetry)
    frame, offset = random_rotations(1, rng)[0], np.array([3.0, -2.0, 6.0])
    jitter = Rotation.from_rotvec(np.deg2rad(spread) * rng.normal(size=(N, 3))).as_matrix()
    matched = true @ group[rng.integers(len(group), size=N)]
    estimated = jitter @ matched @ frame
    shifts = true_shifts - (matched @ offset)[:, :2] + 0.01 * spread * rng.normal(size=(N, 2))
    wrong = rng.random(N) < outliers
    estimated[wrong], shifts[wrong] = random_rotations(wrong.sum(), rng), rng.normal(0, 8, (wrong.sum(), 2))
    if flipped:
        estimated = MIRROR_Z @ estimated @ MIRROR_Z
    return (true, estimated, true_shifts, shifts, group), frame, offset, wrong


def frame_error(group, frame, found):
    return np.rad2deg(angular_distance(group @ frame, found).min())


@pytest.mark.parametrize("symmetry", ["C1", "C7", "D2", "D7", "O", "I2"])
@pytest.mark.parametrize("flipped", [False, True])
def test_perfect_poses_in_another_frame_have_no_error(symmetry, flipped):
    arguments, frame, offset, _ = estimates(symmetry, flipped, spread=0.0, outliers=0.0)
    error = pose_error(*arguments)
    assert error.hand_flipped is flipped
    assert error.hand_margin > 0.5
    assert np.rad2deg(error.angles.max()) < 1e-3
    assert frame_error(arguments[-1], frame, error.rotation) < 1e-3
    if symmetry == "C1":
        assert np.allclose(error.offset, offset, atol=1e-3)
        assert error.shifts.max() < 1e-2


@pytest.mark.parametrize(("symmetry", "spread"), [("C1", 2.0), ("C1", 8.0), ("D2", 4.0), ("D7", 2.0)])
@pytest.mark.parametrize("outliers", [0.3, 0.45])
def test_outliers_do_not_move_the_frame(symmetry, spread, outliers):
    arguments, frame, offset, wrong = estimates(symmetry, True, spread, outliers)
    error = pose_error(*arguments)
    assert error.hand_flipped
    assert frame_error(arguments[-1], frame, error.rotation) < 0.25 * spread
    # A rotation vector with unit normal components has length 1.54 at the median.
    assert np.rad2deg(np.median(error.angles[~wrong])) == pytest.approx(1.54 * spread, rel=0.1)
    assert np.rad2deg(np.median(error.angles[wrong])) > 15.0
    if symmetry == "C1":
        assert np.linalg.norm(error.offset - offset) < 0.5


def test_hand_can_be_fixed():
    arguments, *_ = estimates("C1", True, spread=0.0, outliers=0.0)
    error = pose_error(*arguments, hand_flipped=False)
    assert not error.hand_flipped
    assert np.rad2deg(error.median_angle) > 30.0


def test_medians():
    arguments, *_ = estimates("C1", False, spread=2.0, outliers=0.0)
    error = pose_error(*arguments)
    assert error.median_angle == np.median(error.angles)
    assert error.median_shift == pytest.approx(0.02 * 1.18, rel=0.2)


@pytest.mark.parametrize("flipped", [False, True])
def test_poses_moved_with_the_map_give_the_same_images(flipped):
    # The conventions of the module's docstring, on images: U(y) = V(Q F y + s).
    rng = np.random.default_rng(1)
    size, disc = 32, HalfDisc(9)
    centre = np.arange(size) - size // 2
    z, y, x = np.meshgrid(centre, centre, centre, indexing="ij")
    volume = sum(
        np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 6.0) for a, b, c in rng.normal(0, 3, (15, 3))
    )
    true = lowpass_volume(torch.from_numpy(volume), 10).float()
    frame, offset = random_rotations(1, rng)[0], np.array([1.5, -1.0, 2.0])
    mirror = MIRROR_Z if flipped else np.eye(3)
    to_map = (frame @ mirror).T
    other = torch.from_numpy(transform_map(true.numpy(), 1.0, to_map, -to_map @ offset, size, 1.0))

    rotations, shifts = random_rotations(20, rng), rng.normal(0, 2, (20, 2))
    moved_rotations = mirror @ rotations @ frame @ mirror
    moved_shifts = shifts - (rotations @ offset)[:, :2]
    projector = Projector(size, 10, oversampling=4)
    k = torch.as_tensor(disc.frequencies / size)

    def images(volume, rotations, shifts):
        slices = projector.sample(
            projector.transform(volume), torch.from_numpy(rotations).float(), slice_points(disc)
        )
        return slices * shift_phases(k, torch.from_numpy(shifts))

    a, b = images(true, rotations, shifts), images(other, moved_rotations, moved_shifts)
    assert torch.linalg.norm(a - b) < 0.03 * torch.linalg.norm(a)
    group = group_matrices("C1")
    assert pose_error(rotations, moved_rotations, shifts, moved_shifts, group).angles.max() < 1e-5
