"""Quadratures over directions, in-plane angles and shifts whose spacing follows the resolution."""

import math
from dataclasses import dataclass
from functools import cached_property

import healpix
import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryograd.model.symmetry import in_asymmetric_unit
from cryograd.rotations import euler_to_matrix, transported, turned_in_plane

# Sides of the cells in which a cell is split: eight rotations, four shifts, at ±1/4 of the cell's side.
_SPLIT_3D = np.stack(np.meshgrid(*[[-0.25, 0.25]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
_SPLIT_2D = np.stack(np.meshgrid(*[[-0.25, 0.25]] * 2, indexing="ij"), axis=-1).reshape(-1, 2)


def angular_spacing(radius: float) -> float:
    """Angle in radians at which neighbouring slices are one Fourier pixel apart at the radius: atan(1/r)."""
    return float(np.arctan(1.0 / radius))


def _one_of_each_orbit(directions: np.ndarray, group: np.ndarray, side: float) -> np.ndarray:
    """Mask of the directions (n, 3) that cover the sphere together with their images under a point group.

    Pixels of side ``side`` are not symmetric under the group: on the border of the asymmetric unit they leave
    holes of up to 1.3 sides, which get a pixel again.
    """
    keep = in_asymmetric_unit(directions, group)
    images = (directions[keep] @ group.swapaxes(1, 2)).reshape(-1, 3)
    far = np.flatnonzero(KDTree(images).query(directions)[0] > 0.7 * side)
    while len(far):
        keep[far[0]] = True
        closeness = (directions[far] @ (group @ directions[far[0]]).T).max(axis=1)
        far = far[closeness < np.cos(0.7 * side)]
    return keep


def _covering_directions(spacing: float, group: np.ndarray) -> tuple[np.ndarray, float]:
    """HEALPix directions (rot, tilt) no farther apart than ``spacing``, one of each orbit, and their side."""
    nside = int(np.ceil(np.sqrt(np.pi / 3.0) / spacing))
    tilt, rot = healpix.pix2ang(nside, np.arange(12 * nside**2))
    side = float(np.sqrt(np.pi / 3.0) / nside)
    keep = _one_of_each_orbit(viewing_directions(np.stack([rot, tilt], axis=-1)), group, side)
    return np.stack([rot[keep], tilt[keep]], axis=-1), side


def viewing_directions(angles: np.ndarray) -> np.ndarray:
    """Unit vectors (n, 3) of (rot, tilt) in radians, (n, 2): the third rows of the rotation matrices."""
    rot, tilt = angles.T
    return np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=-1)


@dataclass(frozen=True)
class RotationGrid:
    """Rotations that cover SO(3), or its asymmetric unit, with cells of nearly equal volume.

    Parameters
    ----------
    matrices
        Rotation matrices, shape (J, 3, 3).
    spacing
        Side of a cell in radians.
    """

    matrices: np.ndarray
    spacing: float

    @staticmethod
    def covering(spacing: float, group: np.ndarray) -> "RotationGrid":
        """HEALPix directions × uniform in-plane angles, no farther apart than ``spacing`` radians.

        Of each orbit of the point group (|G|, 3, 3) one rotation is kept.
        """
        angles, side = _covering_directions(spacing, group)
        n_psi = int(np.ceil(2.0 * np.pi / spacing))
        euler = np.empty((len(angles), n_psi, 3))
        euler[..., :2], euler[..., 2] = angles[:, None], 2.0 * np.pi * np.arange(n_psi) / n_psi
        # The largest side of a cell, so that its children cover it.
        side = max(side, 2.0 * np.pi / n_psi)
        return RotationGrid(euler_to_matrix(euler).reshape(-1, 3, 3), float(side))

    def turned(self, rng: np.random.Generator) -> "RotationGrid":
        """The grid turned as a whole by a random rotation of about one cell, so that errors average out.

        The turn is on the image's side and leaves the asymmetric unit one.
        """
        turn = Rotation.from_rotvec(rng.uniform(-0.5, 0.5, 3) * self.spacing).as_matrix()
        return RotationGrid(turn @ self.matrices, self.spacing)


@dataclass(frozen=True)
class ShiftPrior:
    """Where particles lie in their images: near the centre, or, some of them, anywhere.

    Parameters
    ----------
    sigma
        Standard deviation per axis of those near the centre, in Å.
    stray
        Share of those that lie anywhere.
    reach
        Å from the centre within which these lie.
    """

    sigma: float
    stray: float = 0.0
    reach: float = math.inf

    def log_density(self, squares: Tensor) -> Tensor:
        """Log density per Å² at some squared distances from the centre in Å²."""
        near = -0.5 * squares / self.sigma**2 + math.log((1.0 - self.stray) / (2.0 * math.pi * self.sigma**2))
        if self.stray == 0.0:
            return near
        return torch.logaddexp(near, near.new_tensor(math.log(self.stray / (math.pi * self.reach**2))))


@dataclass(frozen=True)
class ShiftGrid:
    """Shifts on a square lattice inside a circle, weighted by their prior.

    Parameters
    ----------
    shifts
        Origin offsets (x, y) in Å, shape (S, 2).
    spacing
        Lattice constant in Å.
    prior
        Where particles lie.
    """

    shifts: np.ndarray
    spacing: float
    prior: ShiftPrior

    @staticmethod
    def covering(
        spacing: float, max_shift: float, prior: ShiftPrior, offset: np.ndarray | None = None
    ) -> "ShiftGrid":
        """Lattice of the given spacing (Å), displaced by ``offset`` cells, within ``max_shift`` Å."""
        n = int(np.ceil(max_shift / spacing)) + 1
        axis = np.arange(-n, n + 1, dtype=np.float64)
        x, y = np.meshgrid(axis, axis, indexing="xy")
        lattice = np.stack([x.ravel(), y.ravel()], axis=-1)
        lattice = (lattice + (0.0 if offset is None else offset)) * spacing
        inside = np.hypot(*lattice.T) <= max(max_shift, 0.75 * spacing)
        return ShiftGrid(lattice[inside], spacing, prior)

    @property
    def log_weights(self) -> np.ndarray:
        """Log of the normalised prior weight of each shift, shape (S,)."""
        log_weight = self.log_densities
        return log_weight - np.logaddexp.reduce(log_weight)

    @property
    def log_densities(self) -> np.ndarray:
        """Log prior density of each shift, shape (S,)."""
        return self.prior.log_density(torch.from_numpy(np.square(self.shifts).sum(axis=-1))).numpy()


@dataclass(frozen=True)
class PoseGrid:
    """Product quadrature of directions, in-plane angles and shifts, of which samplers draw the factors.

    Parameters
    ----------
    angles
        Directions (rot, tilt) in radians, shape (D, 2), covering the sphere or its asymmetric unit.
    in_plane
        Angles ψ in radians, shape (P,).
    shifts
        Shifts with their prior.
    angle
        Spacing of the angles in radians.
    """

    angles: np.ndarray
    in_plane: np.ndarray
    shifts: ShiftGrid
    angle: float

    @staticmethod
    def covering(spacing: float, group: np.ndarray, shifts: ShiftGrid) -> "PoseGrid":
        """Angles no farther apart than ``spacing`` radians, and the given shifts."""
        angles, side = _covering_directions(spacing, group)
        n_psi = int(np.ceil(2.0 * np.pi / spacing))
        in_plane = 2.0 * np.pi * np.arange(n_psi) / n_psi
        return PoseGrid(angles, in_plane, shifts, max(side, 2.0 * np.pi / n_psi))

    def __len__(self) -> int:
        return len(self.angles) * len(self.in_plane) * len(self.shifts.shifts)

    @cached_property
    def directions(self) -> np.ndarray:
        """Viewing directions, shape (D, 3)."""
        return viewing_directions(self.angles)

    def rotations(self, directions: np.ndarray, in_plane: np.ndarray, anchors: np.ndarray) -> np.ndarray:
        """Matrices (d, p, 3, 3) of all pairs of some directions and in-plane angles, given as indices.

        In-plane angles of a direction count from its anchor (d, 3, 3), a rotation that is tilted to it. Any
        anchors make a quadrature, since all in-plane angles are in it.
        """
        frames = transported(anchors, self.directions[directions])
        return turned_in_plane(frames, self.in_plane[in_plane])


def split_rotations(rotations: Tensor, spacing: float) -> Tensor:
    """Eight children (..., 8, 3, 3) of each rotation cell (..., 3, 3) of the given side in radians."""
    turns = Rotation.from_rotvec(_SPLIT_3D * spacing).as_matrix()
    return torch.as_tensor(turns, dtype=rotations.dtype, device=rotations.device) @ rotations[..., None, :, :]


def split_shifts(shifts: Tensor, spacing: float) -> Tensor:
    """Four children (..., 4, 2) of each shift cell (..., 2) of the given side in Å."""
    offsets = torch.as_tensor(_SPLIT_2D * spacing, dtype=shifts.dtype, device=shifts.device)
    return shifts[..., None, :] + offsets


def shift_spread(marginal: Tensor, shifts: Tensor) -> Tensor:
    """Variance (B,) of shifts (B, S, 2), both axes together, under marginals (B, S)."""
    mean = (marginal[..., None] * shifts).sum(dim=1, keepdim=True)
    return (marginal * (shifts - mean).square().sum(dim=2)).sum(dim=1) / marginal.sum(dim=1)
