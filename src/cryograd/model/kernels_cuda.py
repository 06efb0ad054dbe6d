"""Trilinear sampling of a half-space Fourier grid and its adjoint for CUDA, in Triton.

Grids and points are those of `cryograd.model.kernels_cpu`: (D, D, H, 2) with D = 2m + 1 and H = m + 1, the
origin at (m, m, 0), and points with kx < 0 read from their conjugate partner.
"""

import torch
import triton  # pyright: ignore[reportMissingImports] - comes with the CUDA builds of torch alone
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

BLOCK = tl.constexpr(256)
# Bits of the fixed-point sums of back-projection: one below int64's sign bit and one for the roundings.
FIXED_POINT_BITS = 61


@triton.jit
def _locate(rotations, points, j, k, inside, m):
    """Index of the first corner, fractions along xyz, and whether kx < 0, of a block of points."""
    r = rotations + 9 * j
    px = tl.load(points + 3 * k, mask=inside, other=0.0)
    py = tl.load(points + 3 * k + 1, mask=inside, other=0.0)
    pz = tl.load(points + 3 * k + 2, mask=inside, other=0.0)
    x = tl.load(r) * px + tl.load(r + 3) * py + tl.load(r + 6) * pz
    y = tl.load(r + 1) * px + tl.load(r + 4) * py + tl.load(r + 7) * pz
    z = tl.load(r + 2) * px + tl.load(r + 5) * py + tl.load(r + 8) * pz
    behind = x < 0
    x = tl.where(behind, -x, x)
    y = tl.where(behind, -y, y) + m
    z = tl.where(behind, -z, z) + m
    # Not negative any more, so that truncation is the floor.
    x0, y0, z0 = x.to(tl.int32), y.to(tl.int32), z.to(tl.int32)
    corner = 2 * ((z0.to(tl.int64) * (2 * m + 1) + y0) * (m + 1) + x0)
    return corner, x - x0, y - y0, z - z0, behind


@triton.jit
def _edge(grid, at, fx, inside):
    """Complex value interpolated along x from a corner and its neighbour."""
    re, re_next = tl.load(grid + at, mask=inside, other=0.0), tl.load(grid + at + 2, mask=inside, other=0.0)
    im, im_next = (
        tl.load(grid + at + 1, mask=inside, other=0.0),
        tl.load(grid + at + 3, mask=inside, other=0.0),
    )
    return re + fx * (re_next - re), im + fx * (im_next - im)


@triton.jit
def _sample(grid, rotations, points, out, n_points, m):
    j = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = k < n_points
    c, fx, fy, fz, behind = _locate(rotations, points, j, k, inside, m)
    row = 2 * (m + 1)
    plane = row * (2 * m + 1)
    re00, im00 = _edge(grid, c, fx, inside)
    re01, im01 = _edge(grid, c + row, fx, inside)
    re10, im10 = _edge(grid, c + plane, fx, inside)
    re11, im11 = _edge(grid, c + plane + row, fx, inside)
    re = (1.0 - fz) * ((1.0 - fy) * re00 + fy * re01) + fz * ((1.0 - fy) * re10 + fy * re11)
    im = (1.0 - fz) * ((1.0 - fy) * im00 + fy * im01) + fz * ((1.0 - fy) * im10 + fy * im11)
    at = out + 2 * (j * n_points + k)
    tl.store(at, re, mask=inside)
    tl.store(at + 1, tl.where(behind, -im, im), mask=inside)


@triton.jit
def _add_edge(total, at, fx, re, im, inside):
    """Add a complex value, split along x, to a corner and its neighbour."""
    tl.atomic_add(total + at, ((1.0 - fx) * re).to(tl.int64), mask=inside, sem="relaxed")
    tl.atomic_add(total + at + 1, ((1.0 - fx) * im).to(tl.int64), mask=inside, sem="relaxed")
    tl.atomic_add(total + at + 2, (fx * re).to(tl.int64), mask=inside, sem="relaxed")
    tl.atomic_add(total + at + 3, (fx * im).to(tl.int64), mask=inside, sem="relaxed")


@triton.jit
def _insert(values, rotations, points, unit, total, n_points, m):
    j = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = k < n_points
    c, fx, fy, fz, behind = _locate(rotations, points, j, k, inside, m)
    row = 2 * (m + 1)
    plane = row * (2 * m + 1)
    at = values + 2 * (j * n_points + k)
    scale = tl.load(unit)
    re = scale * tl.load(at, mask=inside, other=0.0)
    im = scale * tl.load(at + 1, mask=inside, other=0.0)
    im = tl.where(behind, -im, im)
    w00, w01, w10, w11 = (1.0 - fz) * (1.0 - fy), (1.0 - fz) * fy, fz * (1.0 - fy), fz * fy
    _add_edge(total, c, fx, w00 * re, w00 * im, inside)
    _add_edge(total, c + row, fx, w01 * re, w01 * im, inside)
    _add_edge(total, c + plane, fx, w10 * re, w10 * im, inside)
    _add_edge(total, c + plane + row, fx, w11 * re, w11 * im, inside)


def sample(grid: Tensor, rotations: Tensor, points: Tensor, scale: float) -> Tensor:
    """Values (J, K, 2) of the grid at ``scale · Rᵀ p`` for every rotation (J, 3, 3) and point (K, 3)."""
    n_slices, n_points = len(rotations), len(points)
    out = torch.empty(n_slices, n_points, 2, dtype=grid.dtype, device=grid.device)
    if out.numel():
        blocks = (n_slices, triton.cdiv(n_points, BLOCK.value))
        scaled = (scale * rotations).contiguous()
        with torch.cuda.device_of(grid):
            _sample[blocks](  # pyright: ignore[reportIndexIssue]
                grid.contiguous(), scaled, points.contiguous(), out, n_points, grid.shape[2] - 1
            )
    return out


def insert(grid: Tensor, values: Tensor, rotations: Tensor, points: Tensor, scale: float) -> None:
    """Add to the grid what the adjoint of `sample` makes of the values (J, K, 2).

    Both may also be real, (D, D, H, 1) and (J, K, 1).
    """
    if values.shape[-1] == 1:
        both = torch.zeros((*grid.shape[:-1], 2), dtype=grid.dtype, device=grid.device)
        insert(both, torch.nn.functional.pad(values, (0, 1)), rotations, points, scale)
        grid += both[..., :1]
        return
    # Thousands of threads add to a voxel in an order that changes from run to run. Floating-point sums depend
    # on the order, integer sums do not: values are added as multiples of a unit, so that the same values give
    # the same bytes. No sum exceeds the sum of all magnitudes, and the unit is the power of two with which
    # that one just fits. It leaves 2^-61 of it, far below float32's rounding of any voxel that matters.
    magnitude = values.abs().sum(dtype=torch.float64).clamp(min=1e-18)  # keeps 1 / unit within float32
    per_unit = torch.exp2(torch.floor(FIXED_POINT_BITS - torch.log2(magnitude))).to(values.dtype)
    total = torch.zeros(grid.shape, dtype=torch.int64, device=values.device)
    if values.numel():
        n_slices, n_points = values.shape[:2]
        blocks = (n_slices, triton.cdiv(n_points, BLOCK.value))
        scaled = (scale * rotations).contiguous()
        with torch.cuda.device_of(values):
            _insert[blocks](  # pyright: ignore[reportIndexIssue]
                values.contiguous(), scaled, points.contiguous(), per_unit, total, n_points, grid.shape[2] - 1
            )
    grid += (total.double() / per_unit).to(values.dtype)
