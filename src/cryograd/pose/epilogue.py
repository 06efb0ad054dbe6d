"""Softmax over an image's poses, with both marginals, in two passes over scores that are still in cache."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from cryograd import threads  # noqa: F401 - chooses numba's threading layer before the first launch

LOG2_E = np.float32(1.4426950408889634)
# Rotations in a piece of a row: its marginal stays in the first cache while the shifts go by.
PIECE = 4096


@njit(inline="always", fastmath=True)
def _exp(x):
    """exp(x) for x ≤ 0 in float32 to 2e-7, in a form that the compiler vectorises; 8e-31 below −69.

    Most poses of an image end at that bound, which is far above the subnormal numbers: those are slow.
    """
    y = max(x * LOG2_E, np.float32(-100.0))
    n = np.floor(y)
    f = y - n
    p = np.float32(1.8775767e-3)
    p = p * f + np.float32(8.9893397e-3)
    p = p * f + np.float32(5.5826318e-2)
    p = p * f + np.float32(2.4015361e-1)
    p = p * f + np.float32(6.9315308e-1)
    p = p * f + np.float32(0.99999994)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


# The loops over rotations are functions of their own: inside the parallel loop they would not be vectorised.
@njit(fastmath=True, cache=True)
def _raise_maximum(best, row, half_log_shift):
    # Kept per rotation: elementwise the maximum vectorises, as a reduction it does not.
    for j in range(row.shape[0]):
        score = row[j] + half_log_shift
        best[j] = score if score > best[j] else best[j]


@njit(fastmath=True, cache=True)
def _exponentiate(row, power, offset, rotation_marginal):
    mass = np.float32(0.0)
    for j in range(row.shape[0]):
        e = _exp(np.float32(2.0) * row[j] - power[j] + offset)
        row[j] = e
        rotation_marginal[j] += e
        mass += e
    return mass


@njit(parallel=True, fastmath=True, cache=True)
def _softmax(scores, power, log_shift, log_evidence, rotation_marginal, shift_marginal):
    images, n_shifts, rotations = scores.shape
    # Pieces of rows depend on the number of rotations alone: sums do not depend on the number of threads.
    pieces = (rotations + PIECE - 1) // PIECE
    tops = np.empty((images, pieces), dtype=np.float32)
    masses = np.empty((images, pieces, n_shifts), dtype=np.float32)
    for task in prange(images * pieces):
        i, c = task // pieces, task % pieces
        part = slice(c * PIECE, min((c + 1) * PIECE, rotations))
        marginal = rotation_marginal[i, part]
        marginal[:] = np.float32(-np.inf)
        for s in range(n_shifts):
            _raise_maximum(marginal, scores[i, s, part], np.float32(0.5) * log_shift[s])
        tops[i, c] = (np.float32(2.0) * marginal - power[i, part]).max()
    for task in prange(images * pieces):
        i, c = task // pieces, task % pieces
        part = slice(c * PIECE, min((c + 1) * PIECE, rotations))
        marginal = rotation_marginal[i, part]
        marginal[:] = np.float32(0.0)
        top = tops[i].max()
        for s in range(n_shifts):
            row = scores[i, s, part]
            masses[i, c, s] = _exponentiate(row, power[i, part], log_shift[s] - top, marginal)
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
