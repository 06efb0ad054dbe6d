"""The origin offset of an image at a rotation, between the shifts at which it was compared."""

import math

import torch
from torch import Tensor

from cryograd.pose.posterior import Cells, LocalPosterior, as_complex, mean_shifts

# Standard deviation, in cells, from which on the mean over cells is as fine as the posterior.
NARROW = 0.5


def offsets(local: LocalPosterior, cells: Cells, rotations: Tensor, frequencies: Tensor) -> Tensor:
    """Most probable origin offsets (b, R, 2) in Å at some candidate rotations (b, R), given by number.

    Where an image tells them better than to half a cell, the log of its likelihood is expanded to second
    order in the shift, about the most probable one that was compared: its derivatives are sums over
    coefficients that are at hand. Its maximum is taken if it is within a cell along both axes. Elsewhere the
    mean over what was compared is as fine as the posterior, and takes its width into account.

    Parameters
    ----------
    local, cells
        Posterior of b images over their candidates.
    rotations
        Numbers of the rotations.
    frequencies
        (kx, ky) of each coefficient in 1/Å, shape (K, 2).
    """
    rows = torch.arange(len(rotations), device=rotations.device)[:, None]
    at = local.joint.gather(2, rotations[:, None, :].expand(-1, local.joint.shape[1], -1)).argmax(dim=1)
    # Re Σ conj(P V) C S X is half the log of the likelihood, but for terms without the shift; a further
    # shift by d multiplies its terms by exp(−2πi k·d).
    terms = local.slices[rows, rotations].conj() * as_complex(local.templates[rows, at])
    turns = (2.0 * math.pi * frequencies).to(terms.real.dtype)
    gradient = terms.imag @ turns
    x, y = turns.T
    curvature = terms.real @ torch.stack([x * x, x * y, y * y], dim=1)
    xx, xy, yy = curvature.unbind(dim=-1)
    determinant = xx * yy - xy.square()
    least = 0.5 * (xx + yy) - torch.hypot(0.5 * (xx - yy), xy)
    # The variance along the worse direction is 1 / (2 · least).
    peaked = 2.0 * least * (NARROW * cells.length) ** 2 > 1.0
    inverse = torch.stack([yy, -xy, -xy, xx], dim=-1).unflatten(-1, (2, 2))
    step = (inverse @ gradient[..., None])[..., 0] / torch.where(peaked, determinant, 1.0)[..., None]
    inside = peaked & (step.abs().amax(dim=-1) <= cells.length)
    found = cells.shifts[rows, at] + step
    return torch.where(inside[..., None], found, mean_shifts(local.joint, cells.shifts, rotations))
