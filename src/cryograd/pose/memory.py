"""What the sampler remembers of every particle's posterior, packed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryograd.pose.proposal import Marginal, Remembered

# Columns of a packed anchor (a quaternion), in-plane angle and shift, each with its probability.
_COLUMNS = (5, 2, 3)


@dataclass(frozen=True)
class Row:
    """One particle's posterior: points and, in the last column, probabilities, float32.

    Parameters
    ----------
    anchors, in_plane, shifts
        Shape (M, 5), rotations being quaternions; (M, 2); (M, 3).
    spacing
        Of the quadrature then, in radians and Å.
    iteration
        When it was.
    """

    anchors: np.ndarray
    in_plane: np.ndarray
    shifts: np.ndarray
    spacing: tuple[float, float]
    iteration: int

    @staticmethod
    def of(seen: Remembered) -> "Row":
        """Pack a posterior."""
        quaternions = Rotation.from_matrix(seen.anchors.points).as_quat()
        return Row(
            _packed(quaternions, seen.anchors),
            _packed(seen.in_plane.points[:, None], seen.in_plane),
            _packed(seen.shifts.points, seen.shifts),
            (seen.angle, seen.length),
            seen.iteration,
        )

    def recalled(self) -> Remembered:
        """Undo `of`."""
        anchors, in_plane, shifts = (x.astype(np.float64) for x in (self.anchors, self.in_plane, self.shifts))
        return Remembered(
            Marginal(Rotation.from_quat(anchors[:, :4]).as_matrix(), anchors[:, 4]),
            Marginal(in_plane[:, 0], in_plane[:, 1]),
            Marginal(shifts[:, :2], shifts[:, 2]),
            *self.spacing,
            self.iteration,
        )


def _packed(points: np.ndarray, marginal: Marginal) -> np.ndarray:
    return np.concatenate([points, marginal.probabilities[:, None]], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class Memory:
    """The last posterior of every particle, None of one that has not been visited: at most 5 kB each.

    Rows are replaced in place, as a run goes on.
    """

    rows: list[Row | None]

    @staticmethod
    def empty(n: int) -> "Memory":
        """Memory of particles that have not been visited."""
        return Memory([None] * n)

    def __len__(self) -> int:
        return len(self.rows)

    def recall(self, particle: int) -> Remembered | None:
        """A particle's posterior at its last visit."""
        row = self.rows[particle]
        return None if row is None else row.recalled()

    def update(self, indices: np.ndarray, remembered: Sequence[Remembered]) -> None:
        """Write new rows for some particles."""
        for i, seen in zip(indices, remembered, strict=True):
            self.rows[i] = Row.of(seen)

    def state_dict(self) -> dict[str, np.ndarray]:
        """All rows end to end, as arrays."""
        visited = [i for i, row in enumerate(self.rows) if row is not None]
        rows = [row for row in self.rows if row is not None]
        tables = [[row.anchors, row.in_plane, row.shifts] for row in rows]
        lengths = np.array([[len(t) for t in row] for row in tables], dtype=np.int64).reshape(-1, 3)
        joined = [
            np.concatenate([np.zeros((0, columns), dtype=np.float32), *(t[k] for t in tables)])
            for k, columns in enumerate(_COLUMNS)
        ]
        return {
            "particles": np.array(len(self.rows)),
            "visited": np.array(visited, dtype=np.int64),
            "lengths": lengths,
            "anchors": joined[0],
            "in_plane": joined[1],
            "shifts": joined[2],
            "spacing": np.array([row.spacing for row in rows]).reshape(-1, 2),
            "iteration": np.array([row.iteration for row in rows], dtype=np.int64),
        }

    @staticmethod
    def from_state_dict(saved: dict[str, np.ndarray]) -> "Memory":
        """Undo `state_dict`."""
        rows: list[Row | None] = [None] * int(saved["particles"])
        ends = np.cumsum(saved["lengths"], axis=0)[:-1]
        names = ("anchors", "in_plane", "shifts")
        tables = zip(*(np.split(saved[name], ends[:, k]) for k, name in enumerate(names)), strict=True)
        details = zip(saved["visited"], tables, saved["spacing"].tolist(), saved["iteration"], strict=False)
        for i, (anchors, in_plane, shifts), (angle, length), iteration in details:
            rows[i] = Row(anchors, in_plane, shifts, (angle, length), int(iteration))
        return Memory(rows)
