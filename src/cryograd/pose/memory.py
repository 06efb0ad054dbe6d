"""What the sampler remembers of every particle's posterior, as arrays that a checkpoint holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryograd.pose.proposal import REMEMBERED, Marginal, Remembered


@dataclass(frozen=True)
class Memory:
    """Sparse marginals of n particles; rows of fewer than M points are filled up with probability zero.

    Parameters
    ----------
    anchors, in_plane, shifts
        Points, rotations as quaternions, and in the last column their probabilities: (n, M, 5), (n, M, 2) and
        (n, M, 3), float32.
    spacing
        Of the quadrature then, in radians and Å, shape (n, 2).
    iteration
        When it was, shape (n,); −1 for particles that have not been visited.
    """

    anchors: np.ndarray
    in_plane: np.ndarray
    shifts: np.ndarray
    spacing: np.ndarray
    iteration: np.ndarray

    @staticmethod
    def empty(n: int) -> "Memory":
        """Memory of particles that have not been visited."""
        anchors, in_plane, shifts = (
            np.zeros((n, REMEMBERED, columns), dtype=np.float32) for columns in (5, 2, 3)
        )
        return Memory(anchors, in_plane, shifts, np.zeros((n, 2)), np.full(n, -1))

    def recall(self, particle: int) -> Remembered | None:
        """A particle's posterior at its last visit."""
        if self.iteration[particle] < 0:
            return None
        angle, length = self.spacing[particle].tolist()
        anchors, in_plane = _marginal(self.anchors[particle]), _marginal(self.in_plane[particle])
        return Remembered(
            Marginal(Rotation.from_quat(anchors.points).as_matrix(), anchors.probabilities),
            Marginal(in_plane.points[:, 0], in_plane.probabilities),
            _marginal(self.shifts[particle]),
            angle,
            length,
            int(self.iteration[particle]),
        )

    def updated(self, indices: np.ndarray, remembered: Sequence[Remembered]) -> "Memory":
        """The memory with new rows for some particles."""
        new = Memory(**{name: table.copy() for name, table in vars(self).items()})
        for i, seen in zip(indices, remembered, strict=True):
            quaternions = Rotation.from_matrix(seen.anchors.points).as_quat()
            _write(new.anchors[i], quaternions, seen.anchors.probabilities)
            _write(new.in_plane[i], seen.in_plane.points[:, None], seen.in_plane.probabilities)
            _write(new.shifts[i], seen.shifts.points, seen.shifts.probabilities)
            new.spacing[i] = seen.angle, seen.length
            new.iteration[i] = seen.iteration
        return new


def _marginal(row: np.ndarray) -> Marginal:
    used = row[row[:, -1] > 0].astype(np.float64)
    return Marginal(used[:, :-1], used[:, -1])


def _write(row: np.ndarray, points: np.ndarray, probabilities: np.ndarray) -> None:
    n = len(probabilities)
    row[:n, :-1], row[:n, -1], row[n:] = points, probabilities, 0.0
