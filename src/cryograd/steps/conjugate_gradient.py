"""Preconditioned conjugate gradients, for the quadratic that fixed poses leave."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

from cryograd.steps.protocol import PerCoefficient, Spectrum, Volume, dot


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    gradient: Volume,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float = 0.0,
) -> Iterator[Tensor]:
    """Better and better d with H d ≈ g, one for each product; from zero.

    Parameters
    ----------
    product
        H times a volume.
    gradient
        g.
    precondition
        About H⁻¹ times a volume.
    tolerance
        Decrease of the preconditioned residual's norm ⟨r, M⁻¹ r⟩^½ at which they end.
    """
    solution, residual = torch.zeros_like(gradient), gradient
    direction = conditioned = precondition(residual)
    norm = dot(residual, conditioned)
    goal = norm * tolerance**2
    # Until nothing is left to gain, or nothing is known along the direction.
    while norm > goal:
        image = product(direction)
        bend = dot(direction, image)
        if not bend > 0.0:
            return
        along = norm / bend
        solution, residual = solution + along * direction, residual - along * image
        yield solution
        conditioned = precondition(residual)
        following = dot(residual, conditioned)
        direction, norm = conditioned + (following / norm) * direction, following


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    gradient: Volume,
    precondition: Callable[[Tensor], Tensor],
    iterations: int,
    tolerance: float = 0.0,
) -> Volume:
    """The last of at most so many `conjugate_gradients`; few leave what no image measures as it is."""
    solution = torch.zeros_like(gradient)
    for better in islice(conjugate_gradients(product, gradient, precondition, tolerance), iterations):
        solution = better
    return solution


def inverse_curvature(curvature: PerCoefficient, spectrum: Spectrum, floor: float) -> PerCoefficient:
    """1 / max(h, floor · mean h) where open, else 0; all zero where nothing has any curvature."""
    mean = float(curvature[spectrum.open].mean())
    if mean == 0.0:
        return torch.zeros_like(curvature)
    return torch.where(spectrum.open, 1.0 / curvature.clamp(min=floor * mean), 0.0)
