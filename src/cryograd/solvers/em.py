"""Expectation maximisation: all images, and conjugate gradients at fixed responsibilities."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.solvers.protocol import Local, Move


@dataclass(frozen=True)
class EMState:
    """EM remembers nothing but the volume."""

    def to(self, device: torch.device) -> "EMState":
        """The state itself."""
        return self


@dataclass(frozen=True)
class EM:
    """V ← V − d with H d = g: the M-step, H being the complete-data Hessian.

    With responsibilities that are 0 or 1 it is projection matching.

    Parameters
    ----------
    iterations
        Of conjugate gradients; few, so that frequencies which no image measures stay as they are.
    floor
        Least curvature of the preconditioner as a fraction of its mean over the open frequencies.
    """

    partitioned: ClassVar[bool] = False
    batch: ClassVar[bool] = True

    iterations: int = 8
    floor: float = 0.02

    def init(self, volume: Tensor) -> EMState:
        """State before the first step."""
        del volume
        return EMState()

    def step(self, state: EMState, volume: Tensor, local: Local) -> Move:
        """Solve the M-step."""
        size = volume.shape[-1]
        open_ = radius_grid(size, 3, volume.device) <= local.radius
        mean = float(local.curvature[open_].mean())
        if mean == 0.0:
            return Move(volume, state, 0.0)
        inverse = torch.where(open_, 1.0 / local.curvature.clamp(min=self.floor * mean), 0.0)

        def precondition(residual: Tensor) -> Tensor:
            return inverse_fourier_3d(fourier_3d(residual) * inverse, size)

        step = torch.zeros_like(volume)
        residual = local.gradient
        direction = conditioned = precondition(residual)
        product = _dot(residual, conditioned)
        for _ in range(self.iterations):
            image = local.normal(direction)
            bend = _dot(direction, image)
            # Nothing is left to gain, or nothing is known along this direction.
            if not (product > 0.0 and bend > 0.0):
                break
            along = product / bend
            step, residual = step + along * direction, residual - along * image
            conditioned = precondition(residual)
            following = _dot(residual, conditioned)
            direction, product = conditioned + (following / product) * direction, following
        return Move(volume - local.rate * step, state, local.rate / mean)


def _dot(a: Tensor, b: Tensor) -> float:
    """Inner product in double precision."""
    return float((a.double() * b.double()).sum())
