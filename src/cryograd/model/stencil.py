"""Pᵀ C² P of trilinear slices without the slices: one small set of sums per voxel, compiled and threaded.

A point whose value is interpolated from the eight corners of a cell, with weights t, adds C² t tᵀ to the
matrix. Along an axis with fractions (1 − f, f) a pair of corners has the product (1 − f)² or f² if both are
the same, and f (1 − f) if they differ, whichever is which: the four diagonals of a cell have one weight, and
so have both diagonals of each of its faces. Of the 27 distinct products of a cell eight kinds remain per
voxel, as neighbouring cells share their corners, edges and faces.

Weights are real arrays (D, D, H, 8) on the grid of `kernels_cpu`, D = 2m + 1, H = m + 1. Entry e of a voxel
is the coupling of the two ends of every diagonal of the box that begins there and extends along x if e & 4, y
if e & 2 and z if e & 1: 0 is the voxel itself, 4 the edge along x, 7 the cell. They are sums over points, so
that those of two sets of images add up.
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic
from torch import Tensor

from cryograd.fused import fma
from cryograd.model.kernels_cpu import locate

KINDS = 8
# Points ahead of the one at work whose memory is asked for.
AHEAD = 16


@intrinsic
def _prefetch(_typing: Any, array: types.Array, index: types.Integer) -> tuple[Any, Any]:
    """Ask for the cache line of a row of 8 without waiting for it: a hint to the processor, no result."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entries = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        flag, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        address = builder.bitcast(
            builder.gep(entries, [builder.mul(arguments[1], arguments[1].type(KINDS))]), pointer
        )
        # For writing, to be kept in all caches, data instead of instructions.
        builder.call(hint, [address, flag(1), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, index), generate


# Written out, the 27 additions need no small arrays of factors, which would cost more than they do.
@njit(cache=True)
def _add(weights, corners, places, power, m, first, last):
    """Add the products of all points to the voxels ``first`` to ``last`` of weights (V, 8)."""
    real = weights.dtype.type
    one, two, row, plane = np.uint64(1), np.uint64(2), np.uint64(m + 1), np.uint64((m + 1) * (2 * m + 1))
    for k in range(corners.shape[0]):
        # Points are scattered over more memory than the caches hold: this takes away a third of the
        # time at radius 63 and more than half at 95.
        soon = np.uint64(corners[min(k + AHEAD, corners.shape[0] - 1)]) // two
        for start in (soon, soon + row, soon + plane, soon + plane + row):
            _prefetch(weights, start)  # pyright: ignore[reportCallIssue]
            _prefetch(weights, start + one)  # pyright: ignore[reportCallIssue]
        # Corners count the two parts of complex numbers.
        v = np.uint64(corners[k]) // two
        fx, fy, fz, p = places[0, k], places[1, k], places[2, k], power[k]
        # Products along each axis: of the lower corner with itself, of the two, of the upper with itself.
        x11, y11, z11 = fx * fx, p * fy * fy, fz * fz
        x01, y01, z01 = fx - x11, p * fy - y11, fz - z11
        x00, y00, z00 = real(1) - fx - x01, p - p * fy - y01, real(1) - fz - z01
        if first <= v < last:
            a, b, c, d = y00 * z00, y00 * z01, y01 * z00, y01 * z01
            weights[v, 0] = fma(a, x00, weights[v, 0])
            weights[v, 1] = fma(b, x00, weights[v, 1])
            weights[v, 2] = fma(c, x00, weights[v, 2])
            weights[v, 3] = fma(d, x00, weights[v, 3])
            weights[v, 4] = fma(a, x01, weights[v, 4])
            weights[v, 5] = fma(b, x01, weights[v, 5])
            weights[v, 6] = fma(c, x01, weights[v, 6])
            weights[v, 7] = fma(d, x01, weights[v, 7])
            weights[v + one, 0] = fma(a, x11, weights[v + one, 0])
            weights[v + one, 1] = fma(b, x11, weights[v + one, 1])
            weights[v + one, 2] = fma(c, x11, weights[v + one, 2])
            weights[v + one, 3] = fma(d, x11, weights[v + one, 3])
            a, b = y11 * z00, y11 * z01
            weights[v + row, 0] = fma(a, x00, weights[v + row, 0])
            weights[v + row, 1] = fma(b, x00, weights[v + row, 1])
            weights[v + row, 4] = fma(a, x01, weights[v + row, 4])
            weights[v + row, 5] = fma(b, x01, weights[v + row, 5])
            weights[v + row + one, 0] = fma(a, x11, weights[v + row + one, 0])
            weights[v + row + one, 1] = fma(b, x11, weights[v + row + one, 1])
        v += plane
        if first <= v < last:
            a, c = y00 * z11, y01 * z11
            weights[v, 0] = fma(a, x00, weights[v, 0])
            weights[v, 2] = fma(c, x00, weights[v, 2])
            weights[v, 4] = fma(a, x01, weights[v, 4])
            weights[v, 6] = fma(c, x01, weights[v, 6])
            weights[v + one, 0] = fma(a, x11, weights[v + one, 0])
            weights[v + one, 2] = fma(c, x11, weights[v + one, 2])
            a = y11 * z11
            weights[v + row, 0] = fma(a, x00, weights[v + row, 0])
            weights[v + row, 4] = fma(a, x01, weights[v + row, 4])
            weights[v + row + one, 0] = fma(a, x11, weights[v + row + one, 0])


@njit(parallel=True, cache=True)
def _accumulate(rotations, points, power, m, bounds, weights):
    # Each thread has planes of its own and passes over all points: locating them is a tenth of the work, and
    # every voxel's sum runs over the images in their order, whatever the number of threads.
    for part in prange(len(bounds) - 1):
        corners = np.empty(points.shape[1], dtype=np.int64)
        places = np.empty((4, points.shape[1]), dtype=weights.dtype)
        for j in range(rotations.shape[0]):
            locate(rotations[j], points, 0, points.shape[1], weights.dtype.type(1), m, corners, places)
            image = j if power.shape[0] > 1 else 0
            _add(weights, corners, places, power[image], m, bounds[part], bounds[part + 1])


def _bounds(parts: int, half: int) -> np.ndarray:
    """First voxel of each part's planes, and the end: as many points in each if views are uniform."""
    share = np.arange(1, parts) / parts
    # Points of uniform slices have the density 1 − |z| / m along z.
    z = np.where(share < 0.5, np.sqrt(2 * share) - 1, 1 - np.sqrt(2 * (1 - share)))
    planes = np.concatenate([[0], half + np.rint(z * half), [2 * half + 1]])
    return (planes * (2 * half + 1) * (half + 1)).astype(np.uint64)


def stencil_weights(rotations: Tensor, points: Tensor, power: Tensor, half: int) -> Tensor:
    """Weights (2·half+1, 2·half+1, half+1, 8) of points (K, 3) turned by ``Rᵀ``, of the power's dtype.

    Parameters
    ----------
    rotations
        Rotation matrices (J, 3, 3).
    points
        In voxels, shape (K, 3).
    power
        C² of each image at the points, (J, K), or of all, (1, K).
    half
        Largest index m of the grid along an axis.
    """
    turns, k, c2 = (a.detach().to("cpu", power.dtype).contiguous() for a in (rotations, points.T, power))
    weights = np.zeros((2 * half + 1, 2 * half + 1, half + 1, KINDS), dtype=c2.numpy().dtype)
    bounds = _bounds(get_num_threads(), half)
    _accumulate(turns.numpy(), k.numpy(), c2.numpy(), half, bounds, weights.reshape(-1, KINDS))
    return torch.from_numpy(weights).to(power.device)


@njit(parallel=True, cache=True)
def _multiply(weights, grid, reach, m, out):
    side, length, one = 2 * m + 1, m + 1, np.uint64(1)
    row, plane = length, length * side
    for z in prange(1, side - 1):
        for y in range(1, side - 1):
            left = reach * reach - (z - m) ** 2 - (y - m) ** 2
            if left < 0.0:
                continue
            for x in range(min(int(np.sqrt(left)), m - 1) + 1):
                v = z * plane + y * row + x
                re = im = weights.dtype.type(0)
                for dz in range(-1, 2):
                    # Sums of their own for each plane wait less for one another.
                    plane_re = plane_im = weights.dtype.type(0)
                    for dy in range(-1, 2):
                        near = np.uint64(v + dz * plane + dy * row)
                        # The box of two voxels begins at the lower of both in every axis. Left of x = 0 are
                        # the last entries of another row, which are all zero.
                        low = np.uint64(v + min(dz, 0) * plane + min(dy, 0) * row)
                        kind = 2 * abs(dy) + abs(dz)
                        a, b, c = weights[low - one, 4 + kind], weights[low, kind], weights[low, 4 + kind]
                        plane_re = fma(a, grid[near - one, 0], plane_re)
                        plane_re = fma(b, grid[near, 0], plane_re)
                        plane_re = fma(c, grid[near + one, 0], plane_re)
                        plane_im = fma(a, grid[near - one, 1], plane_im)
                        plane_im = fma(b, grid[near, 1], plane_im)
                        plane_im = fma(c, grid[near + one, 1], plane_im)
                    re += plane_re
                    im += plane_im
                out[v, 0] = re
                out[v, 1] = im


def stencil_product(weights: Tensor, grid: Tensor, reach: float) -> Tensor:
    """Product (D, D, H, 2) of the matrix that the weights (D, D, H, 8) stand for with a grid (D, D, H, 2).

    Both are zero farther than ``reach`` from the origin, and in the last voxel along every axis.
    """
    values = grid.detach().to("cpu", weights.dtype).contiguous().numpy()
    out = np.zeros_like(values)
    w = weights.cpu().numpy().reshape(-1, KINDS)
    _multiply(w, values.reshape(-1, 2), reach, values.shape[2] - 1, out.reshape(-1, 2))
    return torch.from_numpy(out).to(grid.device)
