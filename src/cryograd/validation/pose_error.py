"""Errors of estimated poses against true ones, free of the frame in which a reconstruction happens to lie.

A reconstruction from a random start has its own frame: a point y of it is the point x = Q F y + s of the true
molecule, with a rotation Q, a shift s and, if its hand is wrong, the mirror F of z. Its poses are then

    R_est = R_true g Q           when the hand is right,
    R_est = F (R_true g Q) F     when it is flipped, and
    t_est = t_true − (R_true g s)xy

for some element g of the point group. The second line holds because a projection along z does not change
when z is mirrored: the mirrored molecule in the mirrored pose gives the same image.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryograd.rotations import FloatArray, angular_distance

_MIRROR_Z = np.diag([1.0, 1.0, -1.0])

# Particles whose own rotation is tried as the frame, and particles on which each is judged.
_HYPOTHESES = 400
_JURY = 1000
# Of the rotations drawn at random, 1 in 40 lies within this angle of a given one.
_VOTING_ANGLE = np.deg2rad(45.0)
_ITERATIONS = 30


@dataclass(frozen=True)
class PoseError:
    """Pose errors, and the frame in which they were measured.

    Parameters
    ----------
    angles
        Angle in radians between the estimated and the nearest equivalent true rotation, shape (n,).
    shifts
        Distance in Å between the estimated and the true origin offset, shape (n,).
    rotation
        Q (3, 3), which takes the reconstruction's frame to the true molecule's; g Q would do as well.
    offset
        s (x, y, z) in Å, the point of the true molecule that is the reconstruction's origin.
    hand_flipped
        Whether the reconstruction is the mirror image of the true molecule.
    hand_margin
        How much more support this hand has than the other, as a part of all particles; 0 if it was given.
    """

    angles: FloatArray
    shifts: FloatArray
    rotation: FloatArray
    offset: FloatArray
    hand_flipped: bool
    hand_margin: float

    @property
    def median_angle(self) -> float:
        """Median of the angles, radians."""
        return float(np.median(self.angles))

    @property
    def median_shift(self) -> float:
        """Median of the shift errors, Å."""
        return float(np.median(self.shifts))


def _equivalent(true: FloatArray, estimated: FloatArray, group: FloatArray, frame: FloatArray) -> FloatArray:
    """True rotations R_true g (n, 3, 3), with the g that brings them nearest to the estimated ones."""
    relative = true.swapaxes(1, 2) @ estimated
    # The trace of (g Q)ᵀ R_trueᵀ R_est is largest at the nearest element.
    nearest = np.einsum("gij,nij->ng", group @ frame, relative).argmax(axis=1)
    return true @ group[nearest]


def _voting_angle(group: FloatArray) -> float:
    """Angle in radians beyond which a particle does not vote: chance votes stay as rare for all groups."""
    return _VOTING_ANGLE / np.cbrt(len(group))


def _votes(true: FloatArray, estimated: FloatArray, group: FloatArray, frames: FloatArray) -> FloatArray:
    """Support of each frame (m, 3, 3): how far within the voting angle the particles lie on average."""
    relative = (true.swapaxes(1, 2) @ estimated).reshape(-1, 9)
    traces = np.full((len(relative), len(frames)), -1.0)
    for element in group:
        np.maximum(traces, relative @ (element @ frames).reshape(-1, 9).T, out=traces)
    angles = np.arccos(np.clip(0.5 * (traces - 1.0), -1.0, 1.0))
    return np.clip(1.0 - angles / _voting_angle(group), 0.0, None).mean(axis=0)


def _global_rotation(
    true: FloatArray, estimated: FloatArray, group: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, float]:
    """The rotation Q that most particles agree on, and its support.

    Particles propose their own rotation; the one with most votes is refined to the L1 mean of the particles
    that vote for it, which outliers do not move.
    """
    jury = rng.permutation(len(true))[:_JURY]
    proposers = jury[:_HYPOTHESES]
    proposals = true[proposers].swapaxes(1, 2) @ estimated[proposers]
    frame = proposals[_votes(true[jury], estimated[jury], group, proposals).argmax()]
    for _ in range(_ITERATIONS):
        frames = _equivalent(true, estimated, group, frame).swapaxes(1, 2) @ estimated
        angles = angular_distance(frames, frame)
        near = angles < _voting_angle(group)
        frame = Rotation.from_matrix(frames[near]).mean(1.0 / np.maximum(angles[near], 1e-6)).as_matrix()
    return frame, float(_votes(true[jury], estimated[jury], group, frame[None])[0])


def _offset(rotations: FloatArray, differences: FloatArray) -> FloatArray:
    """The s (3,) that minimises the sum of distances |differences − (R s)xy|, by reweighted least squares."""
    rows = rotations[:, :2]
    weights = np.ones(len(rows))
    offset = np.zeros(3)
    for _ in range(_ITERATIONS):
        normal = np.einsum("n,nai,naj->ij", weights, rows, rows)
        # Views along one axis alone leave the shift along it undetermined: the smallest is taken.
        offset = np.linalg.lstsq(normal, np.einsum("n,nai,na->i", weights, rows, differences), rcond=1e-9)[0]
        weights = 1.0 / np.maximum(np.linalg.norm(differences - rows @ offset, axis=1), 1e-3)
    return offset


def pose_error(
    true_rotations: FloatArray,
    estimated_rotations: FloatArray,
    true_shifts: FloatArray,
    estimated_shifts: FloatArray,
    group: FloatArray,
    hand_flipped: bool | None = None,
    seed: int = 0,
) -> PoseError:
    """Errors of estimated poses modulo point group, one frame for all particles, and hand.

    The frame is found by votes and an L1 mean, so that up to half of the particles may be anywhere.

    Parameters
    ----------
    true_rotations, estimated_rotations
        Matrices of the same particles in the same order, shape (n, 3, 3).
    true_shifts, estimated_shifts
        RELION's origin offsets in Å, shape (n, 2).
    group
        Rotation matrices of the true molecule's point group in its frame, shape (order, 3, 3).
    hand_flipped
        Whether the reconstruction's hand is wrong, or None to choose the hand that more particles agree with.
    seed
        Of the choice of particles that propose frames.

    Returns
    -------
    PoseError
        Errors of every particle, their medians, and the frame.
    """
    candidates = []
    for flipped in (False, True) if hand_flipped is None else (hand_flipped,):
        estimated = _MIRROR_Z @ estimated_rotations @ _MIRROR_Z if flipped else estimated_rotations
        frame, votes = _global_rotation(true_rotations, estimated, group, np.random.default_rng(seed))
        candidates.append((votes, flipped, frame, estimated))
    (votes, flipped, frame, estimated), *others = sorted(candidates, key=lambda c: -c[0])
    matched = _equivalent(true_rotations, estimated, group, frame)
    differences = true_shifts - estimated_shifts
    offset = _offset(matched, differences)
    return PoseError(
        angles=angular_distance(matched @ frame, estimated),
        shifts=np.linalg.norm(differences - (matched @ offset)[:, :2], axis=1),
        rotation=frame,
        offset=offset,
        hand_flipped=flipped,
        hand_margin=votes - others[0][0] if others else 0.0,
    )
