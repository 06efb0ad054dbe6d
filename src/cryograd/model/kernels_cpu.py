"""Trilinear sampling of a half-space Fourier grid and its adjoint, compiled and threaded for CPU.

Grids are real arrays (D, D, H, 2) of interleaved complex numbers, D = 2m + 1 and H = m + 1, with the origin
at (m, m, 0) and kx in the last complex axis. Points with kx < 0 are read from their conjugate partner.
"""

import numpy as np
from numba import njit, prange

from cryograd import threads  # noqa: F401 - chooses numba's threading layer before the first launch
from cryograd.fused import fma

# Partial grids that back-projection adds up in a fixed order: the sum does not depend on the thread count.
# Of large grids there are none: to clear and add up few of them takes as long as it saves.
PARTIAL_GRIDS, FEWEST = 8, 4
PARTIAL_BYTES = 512 * 2**20
# Rotations in a row, which are near each other where they are one image's candidates, and points at a time:
# what one rotation reads of the grid the next finds in the cache.
NEAR, POINTS = 16, 512


# The loops over points are functions of their own: inside the parallel loop `locate`, a third of the work,
# would not be vectorised.
@njit(cache=True)
def locate(rotation, points, first, number, scale, m, corners, places):
    """Flat index of the first corner; fractions along xyz, and sign of the imaginary part, of some points."""
    real = rotation.dtype.type
    turn = scale * rotation
    for k in range(number):
        px, py, pz = points[0, first + k], points[1, first + k], points[2, first + k]
        x = fma(turn[0, 0], px, fma(turn[1, 0], py, turn[2, 0] * pz))
        y = fma(turn[0, 1], px, fma(turn[1, 1], py, turn[2, 1] * pz))
        z = fma(turn[0, 2], px, fma(turn[1, 2], py, turn[2, 2] * pz))
        sign = real(-1) if x < 0 else real(1)
        x, y, z = sign * x, sign * y + real(m), sign * z + real(m)
        # Not negative any more, so that truncation is the floor.
        x0, y0, z0 = np.int32(x), np.int32(y), np.int32(z)
        corners[k] = 2 * ((np.int64(z0) * (2 * m + 1) + y0) * (m + 1) + x0)
        places[0, k] = x - real(x0)
        places[1, k] = y - real(y0)
        places[2, k] = z - real(z0)
        places[3, k] = sign


@njit(cache=True)
def _gather(grid, corners, places, number, m, out):
    real = grid.dtype.type
    row = np.uint64(2 * (m + 1))
    plane = np.uint64(2 * (m + 1) * (2 * m + 1))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for k in range(number):
        c, fx, fy, fz, sign = np.uint64(corners[k]), places[0, k], places[1, k], places[2, k], places[3, k]
        left_re = left_im = right_re = right_im = real(0)
        for corner, w in (
            (c, (real(1) - fz) * (real(1) - fy)),
            (c + row, (real(1) - fz) * fy),
            (c + plane, fz * (real(1) - fy)),
            (c + plane + row, fz * fy),
        ):
            left_re = fma(w, grid[corner], left_re)
            left_im = fma(w, grid[corner + one], left_im)
            right_re = fma(w, grid[corner + two], right_re)
            right_im = fma(w, grid[corner + three], right_im)
        out[k, 0] = fma(fx, right_re - left_re, left_re)
        out[k, 1] = sign * fma(fx, right_im - left_im, left_im)


@njit(cache=True)
def _scatter(grid, corners, places, number, m, values):
    real = grid.dtype.type
    row = np.uint64(2 * (m + 1))
    plane = np.uint64(2 * (m + 1) * (2 * m + 1))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for k in range(number):
        c, fx, fy, fz, sign = np.uint64(corners[k]), places[0, k], places[1, k], places[2, k], places[3, k]
        re, im = values[k, 0], sign * values[k, 1]
        right_re, right_im = fx * re, fx * im
        left_re, left_im = re - right_re, im - right_im
        for corner, w in (
            (c, (real(1) - fz) * (real(1) - fy)),
            (c + row, (real(1) - fz) * fy),
            (c + plane, fz * (real(1) - fy)),
            (c + plane + row, fz * fy),
        ):
            grid[corner] = fma(w, left_re, grid[corner])
            grid[corner + one] = fma(w, left_im, grid[corner + one])
            grid[corner + two] = fma(w, right_re, grid[corner + two])
            grid[corner + three] = fma(w, right_im, grid[corner + three])


@njit(cache=True)
def _scatter_real(grid, corners, places, number, m, values):
    """`_scatter` for real values and a real grid."""
    real = grid.dtype.type
    row = np.uint64(m + 1)
    plane = np.uint64((m + 1) * (2 * m + 1))
    one = np.uint64(1)
    for k in range(number):
        c, fx, fy, fz = np.uint64(corners[k]) // np.uint64(2), places[0, k], places[1, k], places[2, k]
        right = fx * values[k, 0]
        left = values[k, 0] - right
        for corner, w in (
            (c, (real(1) - fz) * (real(1) - fy)),
            (c + row, (real(1) - fz) * fy),
            (c + plane, fz * (real(1) - fy)),
            (c + plane + row, fz * fy),
        ):
            grid[corner] = fma(w, left, grid[corner])
            grid[corner + one] = fma(w, right, grid[corner + one])


@njit(parallel=True, cache=True)
def _sample(grid, rotations, points, scale, m, out):
    n = rotations.shape[0]
    for group in prange((n + NEAR - 1) // NEAR):
        corners, places = np.empty(POINTS, dtype=np.int64), np.empty((4, POINTS), dtype=grid.dtype)
        for first in range(0, points.shape[1], POINTS):
            number = min(POINTS, points.shape[1] - first)
            for j in range(NEAR * group, min(NEAR * (group + 1), n)):
                locate(rotations[j], points, first, number, scale, m, corners, places)
                _gather(grid, corners, places, number, m, out[j, first:])


@njit(parallel=True, cache=True)
def _insert(values, rotations, points, scale, m, partial):
    parts, n = partial.shape[0], rotations.shape[0]
    for part in prange(parts):
        corners, places = np.empty(POINTS, dtype=np.int64), np.empty((4, POINTS), dtype=values.dtype)
        begin, end = part * n // parts, (part + 1) * n // parts
        for near in range(begin, end, NEAR):
            for first in range(0, points.shape[1], POINTS):
                number = min(POINTS, points.shape[1] - first)
                for j in range(near, min(near + NEAR, end)):
                    locate(rotations[j], points, first, number, scale, m, corners, places)
                    if values.shape[2] == 1:
                        _scatter_real(partial[part], corners, places, number, m, values[j, first:])
                    else:
                        _scatter(partial[part], corners, places, number, m, values[j, first:])


def sample(grid: np.ndarray, rotations: np.ndarray, points: np.ndarray, scale: float) -> np.ndarray:
    """Values (J, K, 2) of the grid at ``scale · Rᵀ p`` for every rotation (J, 3, 3) and point (K, 3)."""
    out = np.empty((len(rotations), len(points), 2), dtype=grid.dtype)
    half = grid.shape[2] - 1
    _sample(grid.reshape(-1), rotations, np.ascontiguousarray(points.T), grid.dtype.type(scale), half, out)
    return out


def insert(
    grid: np.ndarray, values: np.ndarray, rotations: np.ndarray, points: np.ndarray, scale: float
) -> None:
    """Add to the grid what the adjoint of `sample` makes of the values (J, K, 2).

    Both may also be real, (D, D, H, 1) and (J, K, 1).
    """
    half, parts = grid.shape[2] - 1, min(PARTIAL_BYTES // grid.nbytes, PARTIAL_GRIDS)
    parts = parts if parts >= FEWEST else 1
    flat = grid.reshape(1, -1)
    partial = flat if parts == 1 else np.zeros((parts, grid.size), dtype=grid.dtype)
    _insert(values, rotations, np.ascontiguousarray(points.T), grid.dtype.type(scale), half, partial)
    if parts > 1:
        flat += partial.sum(axis=0)
