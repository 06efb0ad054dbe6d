"""What the sampler remembers of every particle's posterior, as arrays that a checkpoint holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryograd.pose.proposal import REMEMBERED, Marginal, Remembered


@dataclass(frozen=True)
class Memory:
    """Sparse marginals of n particles; rows of fewer than M points are filled up with probability zero.

    Parameters
    ----------
    directions, in_plane, shifts
        Points and, in the last column, their probabilities: (n, M, 4), (n, M, 2) and (n, M, 3), float32.
    spacing
        Of the quadrature then, in radians and Å, shape (n, 2).
    iteration
        When it was, shape (n,); −1 for particles that have not been visited.
    """

    directions: np.ndarray
    in_plane: np.ndarray
    shifts: np.ndarray
    spacing: np.ndarray
    iteration: np.ndarray

    @staticmethod
    def empty(n: int) -> "Memory":
        """Memory of particles that have not been visited."""
        directions, in_plane, shifts = (
            np.zeros((n, REMEMBERED, columns), dtype=np.float32) for columns in (4, 2, 3)
        )
        return Memory(directions, in_plane, shifts, np.zeros((n, 2)), np.full(n, -1))

    def recall(self, particle: int) -> Remembered | None:
        """A particle's posterior at its last visit."""
        if self.iteration[particle] < 0:
            return None
        angle, length = self.spacing[particle].tolist()
        return Remembered(
            _marginal(self.directions[particle]),
            _marginal(self.in_plane[particle]),
            _marginal(self.shifts[particle]),
            angle,
            length,
            int(self.iteration[particle]),
        )

    def updated(self, indices: np.ndarray, remembered: Sequence[Remembered]) -> "Memory":
        """The memory with new rows for some particles."""
        new = Memory(**{name: table.copy() for name, table in vars(self).items()})
        for i, seen in zip(indices, remembered, strict=True):
            _write(new.directions[i], seen.directions)
            _write(new.in_plane[i], seen.in_plane)
            _write(new.shifts[i], seen.shifts)
            new.spacing[i] = seen.angle, seen.length
            new.iteration[i] = seen.iteration
        return new


def _marginal(row: np.ndarray) -> Marginal:
    used = row[row[:, -1] > 0].astype(np.float64)
    return Marginal(used[:, :-1], used[:, -1])


def _write(row: np.ndarray, marginal: Marginal) -> None:
    n = len(marginal.probabilities)
    row[:n, :-1], row[:n, -1], row[n:] = marginal.points, marginal.probabilities, 0.0
