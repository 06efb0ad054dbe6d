"""Preconditioned conjugate gradients, for the quadratic that fixed poses leave."""

from collections.abc import Callable

import torch
from torch import Tensor

from cryograd.solvers.protocol import Spectrum, dot


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    precondition: Callable[[Tensor], Tensor],
    iterations: int,
    tolerance: float = 0.0,
) -> Tensor:
    """d with H d ≈ g, from zero.

    Parameters
    ----------
    product
        H times a volume.
    gradient
        g.
    precondition
        About H⁻¹ times a volume.
    iterations
        At most; few leave what no image measures as it is.
    tolerance
        Decrease of the preconditioned residual's norm ⟨r, M⁻¹ r⟩^½ at which they end.
    """
    solution, residual = torch.zeros_like(gradient), gradient
    direction = conditioned = precondition(residual)
    norm = dot(residual, conditioned)
    goal = norm * tolerance**2
    for _ in range(iterations):
        image = product(direction)
        bend = dot(direction, image)
        # Nothing is left to gain, or nothing is known along this direction.
        if not (norm > goal and bend > 0.0):
            break
        along = norm / bend
        solution, residual = solution + along * direction, residual - along * image
        conditioned = precondition(residual)
        following = dot(residual, conditioned)
        direction, norm = conditioned + (following / norm) * direction, following
    return solution


def inverse_curvature(curvature: Tensor, spectrum: Spectrum, floor: float) -> Tensor:
    """1 / max(h, floor · mean h) where open, else 0; all zero where nothing has any curvature."""
    mean = float(curvature[spectrum.open].mean())
    if mean == 0.0:
        return torch.zeros_like(curvature)
    return torch.where(spectrum.open, 1.0 / curvature.clamp(min=floor * mean), 0.0)
