"""Softmax over an image's poses, with both marginals, in two passes over scores that are still in cache."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from cryograd import threads  # noqa: F401 - chooses numba's threading layer before the first launch
from cryograd.fused import fma

LOG2_E = np.float32(1.4426950408889634)
# Adding this rounds to an integer, as float32 has no finer steps there.
NEAREST = np.float32(1.5 * 2**23)
# Rotations in a piece of a row: its marginal stays in the first cache while the shifts go by.
PIECE = 4096


@njit(inline="always")
def _exp(x):
    """exp(x) for x ≤ 0 in float32 to 2e-7, in a form that the compiler vectorises; 8e-31 below −69.

    Most poses of an image end at that bound, which is far above the subnormal numbers: those are slow.
    """
    y = x * LOG2_E
    y = y if y > np.float32(-100.0) else np.float32(-100.0)
    # Its last bits are those of the nearest integer.
    shifted = np.float32(y + NEAREST)
    f = y - (shifted - NEAREST)
    p = np.float32(1.3269535e-3)
    p = fma(p, f, np.float32(9.671291e-3))
    p = fma(p, f, np.float32(5.550711e-2))
    p = fma(p, f, np.float32(2.4022247e-1))
    p = fma(p, f, np.float32(6.93147e-1))
    p = np.float32(fma(p, f, np.float32(1.0)))
    # 2 to the integer: added to the exponent.
    return np.int32(p.view(np.int32) + (shifted.view(np.int32) << np.int32(23))).view(np.float32)


# The loops over rotations are functions of their own: inside the parallel loop they would not be vectorised.
@njit(cache=True)
def _raise_maximum(best, first, second, first_half_log_shift, second_half_log_shift):
    # Kept per rotation: elementwise the maximum vectorises, as a reduction it does not.
    for j in range(first.shape[0]):
        one, two = first[j] + first_half_log_shift, second[j] + second_half_log_shift
        score = one if one > two else two
        best[j] = score if score > best[j] else best[j]


@njit(cache=True)
def _exponentiate(row, power, offset, rotation_marginal):
    for j in range(row.shape[0]):
        e = _exp(fma(np.float32(2.0), row[j], offset - power[j]))
        row[j] = e
        rotation_marginal[j] += e


@njit(cache=True)
def _sum(row, partial):
    """Sum of a row in eight parts, and of the parts in halves: elementwise the additions vectorise."""
    width = row.shape[0] // 8
    parts = row[: 8 * width].reshape(8, width)
    a, b, c, d = parts[0], parts[1], parts[2], parts[3]
    e, f, g, h = parts[4], parts[5], parts[6], parts[7]
    for k in range(width):
        partial[k] = ((a[k] + b[k]) + (c[k] + d[k])) + ((e[k] + f[k]) + (g[k] + h[k]))
    total = np.float32(0.0)
    for j in range(8 * width, row.shape[0]):
        total += row[j]
    while width > 8:
        if width % 2 == 1:
            total += partial[width - 1]
        width //= 2
        upper = partial[width : 2 * width]
        for k in range(width):
            partial[k] += upper[k]
    for k in range(width):
        total += partial[k]
    return total


@njit(parallel=True, cache=True)
def _softmax(scores, power, log_shift, log_evidence, rotation_marginal, shift_marginal):
    images, n_shifts, rotations = scores.shape
    half = np.float32(0.5)
    # Pieces of rows depend on the number of rotations alone: sums do not depend on the number of threads.
    pieces = (rotations + PIECE - 1) // PIECE
    tops = np.empty((images, pieces), dtype=np.float32)
    masses = np.empty((images, pieces, n_shifts), dtype=np.float32)
    for task in prange(images * pieces):
        i, c = task // pieces, task % pieces
        part = slice(c * PIECE, min((c + 1) * PIECE, rotations))
        marginal = rotation_marginal[i, part]
        marginal[:] = np.float32(-np.inf)
        for s in range(0, n_shifts, 2):
            # The last of an odd number of shifts is compared with itself.
            t = min(s + 1, n_shifts - 1)
            rows = scores[i, s, part], scores[i, t, part]
            _raise_maximum(marginal, *rows, half * log_shift[s], half * log_shift[t])
        tops[i, c] = (np.float32(2.0) * marginal - power[i, part]).max()
    for task in prange(images * pieces):
        i, c = task // pieces, task % pieces
        part = slice(c * PIECE, min((c + 1) * PIECE, rotations))
        marginal = rotation_marginal[i, part]
        marginal[:] = np.float32(0.0)
        top = tops[i].max()
        partial = np.empty(PIECE // 8, dtype=np.float32)
        for s in range(n_shifts):
            row = scores[i, s, part]
            _exponentiate(row, power[i, part], log_shift[s] - top, marginal)
            masses[i, c, s] = _sum(row, partial)
    for i in range(images):
        total = 0.0
        for s in range(n_shifts):
            mass = np.float32(0.0)
            for c in range(pieces):
                mass += masses[i, c, s]
            shift_marginal[i, s] = mass
            total += mass
        log_evidence[i] = tops[i].max() + np.log(total)
        inverse = np.float32(1.0 / total)
        shift_marginal[i] *= inverse
        rotation_marginal[i] *= inverse


def softmax_poses(scores: Tensor, power: Tensor, log_shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Responsibilities of one block of images over all shifts and rotations.

    The logits are ``2 · scores − power + log_shift``.

    Parameters
    ----------
    scores
        Re⟨C P_j V, S_l X⟩, shape (b, S, J), overwritten with unnormalised responsibilities: divide by
        their sum over poses.
    power
        ‖C P_j V‖², shape (b, J).
    log_shift
        Log weights of the shifts, shape (S,).

    Returns
    -------
    log_evidence : Tensor
        Log of the sum over poses, shape (b,).
    rotation_marginal, shift_marginal : Tensor
        Responsibilities summed over shifts (b, J) and over rotations (b, S), each with sum 1.
    """
    b, n_shifts, n_rotations = scores.shape
    if scores.is_cuda:
        logits = scores.mul_(2.0).sub_(power[:, None]).add_(log_shift[:, None]).view(b, -1)
        log_evidence = torch.logsumexp(logits, dim=1)
        torch.exp(logits - logits.amax(dim=1, keepdim=True), out=logits)
        joint = scores / logits.sum(dim=1)[:, None, None]
        return log_evidence, joint.sum(dim=1), joint.sum(dim=2)
    log_evidence = torch.empty(b)
    rotation_marginal = torch.empty(b, n_rotations)
    shift_marginal = torch.empty(b, n_shifts)
    _softmax(
        scores.numpy(),
        power.numpy(),
        log_shift.numpy(),
        log_evidence.numpy(),
        rotation_marginal.numpy(),
        shift_marginal.numpy(),
    )
    return log_evidence, rotation_marginal, shift_marginal
