"""Point groups on RELION's axes, their asymmetric units, and the averaging of a volume over a group.

A volume is symmetric when V(g x) = V(x) for every element g. The rotations R and R gᵀ then give the same
image, and the viewing directions d and g d are equivalent.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryograd.errors import CryogradError
from cryograd.fourier import HalfBall, unpack_ball, unpack_ball_adjoint
from cryograd.model.projection import Projector
from cryograd.rotations import FloatArray

_PHI = (1.0 + np.sqrt(5.0)) / 2.0

# Generators (fold, axis) of each group, on the axes of RELION's symmetry files.
_POLYHEDRAL: dict[str, list[tuple[int, tuple[float, float, float]]]] = {
    "T": [(3, (0.0, 0.0, 1.0)), (2, (0.0, np.sqrt(2.0), 1.0))],
    "O": [(3, (1.0, 1.0, 1.0)), (4, (0.0, 0.0, 1.0))],
    "I1": [(2, (1.0, 0.0, 0.0)), (5, (_PHI, 0.0, -1.0))],
    "I2": [(2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, _PHI))],
    "I3": [(2, (-1.0, 0.0, _PHI)), (5, (0.0, 0.0, 1.0))],
    "I4": [(2, (1.0, 0.0, _PHI)), (5, (2.0, 0.0, 1.0))],
}

# On no axis or mirror plane of any group, so that no two images of a direction are equally far from it.
_REFERENCE = np.array([0.2731, 0.1193, 0.9545])

# Points sampled at once: 64 MB of complex64 values.
_CHUNK_POINTS = 2**23


def _generators(name: str) -> list[tuple[int, tuple[float, float, float]]]:
    """Generators (fold, axis) of a point group; its name in any case, RELION's ``I`` meaning ``I2``."""
    key = {"I": "I2"}.get(name.upper(), name.upper())
    if key in _POLYHEDRAL:
        return _POLYHEDRAL[key]
    match = re.fullmatch(r"([CD])([1-9]\d{0,2})", key)
    if match is None:
        raise CryogradError("unknown point group", repr(name), "use C1, Cn, Dn, T, O, I or I1 to I4")
    cyclic = [(int(match[2]), (0.0, 0.0, 1.0))]
    return cyclic if match[1] == "C" else [*cyclic, (2, (1.0, 0.0, 0.0))]


def _closure(generators: Rotation) -> Rotation:
    """All products of the generators, the identity first."""
    group = frontier = Rotation.identity().as_quat()[None]
    while len(frontier):
        products = np.concatenate([(Rotation.from_quat(frontier) * g).as_quat() for g in generators])
        frontier = np.empty((0, 4))
        for q in products:
            # Two quaternions of opposite sign are the same rotation.
            if np.abs(group @ q).max() < 1.0 - 1e-6:
                group, frontier = np.vstack([group, q]), np.vstack([frontier, q])
    return Rotation.from_quat(group)


@lru_cache(maxsize=32)
def _group(name: str) -> FloatArray:
    rotations = [
        Rotation.from_rotvec(2.0 * np.pi / fold * np.array(axis) / np.linalg.norm(axis))
        for fold, axis in _generators(name)
    ]
    matrices = _closure(Rotation.concatenate(rotations)).as_matrix()
    # Exact zeros and ones tell the elements that permute the axes from those that need interpolation.
    nearest = np.rint(matrices)
    return np.where(np.abs(matrices - nearest) < 1e-12, nearest, matrices)


def group_matrices(name: str) -> FloatArray:
    """Rotation matrices of a point group on RELION's axes.

    Cn and Dn have their main axis on z, and Dn a twofold axis on x. T has a threefold axis on z, O fourfold
    axes on x, y and z. I1 and I2 have twofold axes on x, y and z, I3 and I4 a fivefold axis on z.

    Parameters
    ----------
    name
        C1, Cn, Dn, T, O, I (which is I2) or I1 to I4, in any case.

    Returns
    -------
    FloatArray
        Matrices of shape (order, 3, 3), the identity first.

    Raises
    ------
    CryogradError
        If there is no such group.
    """
    return _group(name.upper()).copy()


def in_asymmetric_unit(unit_vectors: FloatArray, group: FloatArray) -> np.ndarray:
    """Choose one viewing direction of each orbit under a group.

    The one nearest to a fixed reference direction is chosen: the unit is the reference's Dirichlet domain.

    Parameters
    ----------
    unit_vectors
        Viewing directions (third rows of the rotation matrices), shape (n, 3).
    group
        What `group_matrices` returned, shape (order, 3, 3).

    Returns
    -------
    np.ndarray
        Mask of shape (n,).
    """
    directions = np.asarray(unit_vectors, dtype=np.float64)
    # (g d)·r for all g at once is d·(gᵀ r).
    closeness = directions @ (_REFERENCE @ group).T
    # The tolerance keeps directions on an axis, whose images are themselves up to rounding.
    return directions @ _REFERENCE >= closeness.max(axis=1) - 1e-9


@dataclass(frozen=True)
class Symmetrizer:
    """Averaging of a real volume over a point group, which also low-pass filters it to a ball.

    Elements that only permute and negate the axes are exact; the others interpolate linearly in the padded
    transform. For C1 the volume is returned as it is, without a low-pass.

    Parameters
    ----------
    name
        Point group, as in `group_matrices`.
    size
        Box size L in voxels.
    radius
        Radius in Fourier pixels of the ball that is kept, at most L / 2 - 1.
    oversampling
        Zero-padding factor of the interpolation.
    """

    name: str
    size: int
    radius: float
    oversampling: int = 2

    @cached_property
    def matrices(self) -> FloatArray:
        """The group's rotation matrices, shape (order, 3, 3)."""
        return group_matrices(self.name)

    @cached_property
    def _ball(self) -> HalfBall:
        return HalfBall(self.radius)

    @cached_property
    def _projector(self) -> Projector:
        return Projector(self.size, self.radius, self.oversampling)

    @cached_property
    def _by_axes(self) -> dict[tuple[bool, ...], FloatArray]:
        """Group elements by the axes (x, y, z) along which they land on the grid's own nodes."""
        on_nodes = (np.abs(self.matrices) == 1.0).any(axis=1)
        return {
            tuple(pattern.tolist()): self.matrices[(on_nodes == pattern).all(axis=1)]
            for pattern in np.unique(on_nodes, axis=0)
        }

    def _uncorrect(self, volume: Tensor, on_nodes: tuple[bool, ...]) -> Tensor:
        """Undo the gridding correction along the axes in which nothing is interpolated."""
        x = np.arange(self.size) - self.size // 2
        kernel = torch.from_numpy(np.sinc(x / (self.size * self.oversampling)) ** 2).to(volume)
        for axis, exact in enumerate(on_nodes):
            if exact:
                volume = volume * kernel.reshape(-1, *[1] * axis)
        return volume

    def _chunks(self, rotations: FloatArray, like: Tensor) -> Iterator[Tensor]:
        step = max(1, _CHUNK_POINTS // len(self._ball))
        return iter(torch.as_tensor(rotations).to(like).split(step))

    def _points(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self._ball.frequencies).to(like).contiguous()

    def forward(self, volume: Tensor) -> Tensor:
        """Average of a real volume (L, L, L) over the group."""
        if len(self.matrices) == 1:
            return volume
        points, total = self._points(volume), None
        for on_nodes, rotations in self._by_axes.items():
            grid = self._projector.transform(self._uncorrect(volume, on_nodes))
            for chunk in self._chunks(rotations, volume):
                values = self._projector.sample(grid, chunk, points).sum(dim=0)
                total = values if total is None else total + values
        assert total is not None
        return unpack_ball(total / len(self.matrices), self._ball, self.size)

    def adjoint(self, volume: Tensor) -> Tensor:
        """Exact adjoint of `forward`, for gradients: a real volume (L, L, L) of one."""
        if len(self.matrices) == 1:
            return volume
        points = self._points(volume)
        values = unpack_ball_adjoint(volume, self._ball) / len(self.matrices)
        total = torch.zeros_like(volume)
        for on_nodes, rotations in self._by_axes.items():
            grid = self._projector.empty(values)
            for chunk in self._chunks(rotations, volume):
                self._projector.add(grid, values.expand(len(chunk), -1), chunk, points)
            total += self._uncorrect(self._projector.transform_adjoint(grid), on_nodes)
        return total
