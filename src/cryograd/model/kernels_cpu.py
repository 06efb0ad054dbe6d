"""Trilinear sampling of a half-space Fourier grid and its adjoint, compiled and threaded for CPU.

Grids are real arrays (D, D, H, 2) of interleaved complex numbers, D = 2m + 1 and H = m + 1, with the origin
at (m, m, 0) and kx in the last complex axis. Points with kx < 0 are read from their conjugate partner.
"""

import math

import numpy as np
from numba import njit, prange

from cryograd import threads  # noqa: F401 - chooses numba's threading layer before the first launch

# Partial grids that back-projection adds up in a fixed order: the sum does not depend on the thread count.
PARTIAL_GRIDS = 8
PARTIAL_BYTES = 512 * 2**20


@njit(inline="always")
def _locate(rotation, scale, px, py, pz, m):
    """Flat index of the first corner, fractions along xyz, and sign of the imaginary part, of a point."""
    x = scale * (rotation[0, 0] * px + rotation[1, 0] * py + rotation[2, 0] * pz)
    y = scale * (rotation[0, 1] * px + rotation[1, 1] * py + rotation[2, 1] * pz)
    z = scale * (rotation[0, 2] * px + rotation[1, 2] * py + rotation[2, 2] * pz)
    sign = math.copysign(scale, x) / scale
    x, y, z = sign * x, sign * y + m, sign * z + m
    # Not negative any more, so that truncation is the floor.
    x0, y0, z0 = np.int32(x), np.int32(y), np.int32(z)
    corner = 2 * ((np.int64(z0) * (2 * m + 1) + y0) * (m + 1) + x0)
    real = rotation.dtype.type
    return np.uint64(corner), real(x - real(x0)), real(y - real(y0)), real(z - real(z0)), real(sign)


@njit(parallel=True, fastmath=True, cache=True)
def _sample(grid, rotations, points, scale, m, out):
    real = grid.dtype.type
    row = np.uint64(2 * (m + 1))
    plane = np.uint64(2 * (m + 1) * (2 * m + 1))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for j in prange(rotations.shape[0]):
        rotation = rotations[j]
        for k in range(points.shape[0]):
            c, fx, fy, fz, sign = _locate(rotation, scale, points[k, 0], points[k, 1], points[k, 2], m)
            re = real(0)
            im = real(0)
            for corner, w in (
                (c, (real(1) - fz) * (real(1) - fy)),
                (c + row, (real(1) - fz) * fy),
                (c + plane, fz * (real(1) - fy)),
                (c + plane + row, fz * fy),
            ):
                re += w * (grid[corner] + fx * (grid[corner + two] - grid[corner]))
                im += w * (grid[corner + one] + fx * (grid[corner + three] - grid[corner + one]))
            out[j, k, 0] = re
            out[j, k, 1] = sign * im


@njit(parallel=True, fastmath=True, cache=True)
def _insert(values, rotations, points, scale, m, partial):
    real = values.dtype.type
    row = np.uint64(2 * (m + 1))
    plane = np.uint64(2 * (m + 1) * (2 * m + 1))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    parts, n = partial.shape[0], rotations.shape[0]
    for part in prange(parts):
        grid = partial[part]
        for j in range(part * n // parts, (part + 1) * n // parts):
            rotation = rotations[j]
            for k in range(points.shape[0]):
                c, fx, fy, fz, sign = _locate(rotation, scale, points[k, 0], points[k, 1], points[k, 2], m)
                re = values[j, k, 0]
                im = sign * values[j, k, 1]
                for corner, w in (
                    (c, (real(1) - fz) * (real(1) - fy)),
                    (c + row, (real(1) - fz) * fy),
                    (c + plane, fz * (real(1) - fy)),
                    (c + plane + row, fz * fy),
                ):
                    right = w * fx
                    left = w - right
                    grid[corner] += left * re
                    grid[corner + one] += left * im
                    grid[corner + two] += right * re
                    grid[corner + three] += right * im


def sample(grid: np.ndarray, rotations: np.ndarray, points: np.ndarray, scale: float) -> np.ndarray:
    """Values (J, K, 2) of the grid at ``scale · Rᵀ p`` for every rotation (J, 3, 3) and point (K, 3)."""
    out = np.empty((len(rotations), len(points), 2), dtype=grid.dtype)
    half = grid.shape[2] - 1
    _sample(grid.reshape(-1), rotations, points, grid.dtype.type(scale), half, out)
    return out


def insert(
    values: np.ndarray, rotations: np.ndarray, points: np.ndarray, scale: float, half: int
) -> np.ndarray:
    """Grid (2·half+1, 2·half+1, half+1, 2) to which the adjoint of `sample` adds the values (J, K, 2)."""
    shape = (2 * half + 1, 2 * half + 1, half + 1, 2)
    parts = int(np.clip(PARTIAL_BYTES // (np.prod(shape) * values.itemsize), 1, PARTIAL_GRIDS))
    partial = np.zeros((parts, int(np.prod(shape))), dtype=values.dtype)
    _insert(values, rotations, points, values.dtype.type(scale), half, partial)
    return partial.sum(axis=0).reshape(shape)
