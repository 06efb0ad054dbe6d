"""Expectation maximisation: all images, and conjugate gradients at fixed responsibilities."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cryograd.solvers.conjugate_gradient import conjugate_gradient, inverse_curvature
from cryograd.solvers.protocol import Local, Move, Takes


@dataclass(frozen=True)
class EMState:
    """EM remembers nothing but the volume."""

    def to(self, device: torch.device) -> "EMState":
        """The state itself."""
        return self

    def resized(self, size: int) -> "EMState":
        """The state itself."""
        return self


@dataclass(frozen=True)
class EM:
    """V ← V − d with H d = g: the M-step, H being the Hessian of the complete data and the spectral prior.

    With responsibilities that are 0 or 1 it is projection matching.

    Parameters
    ----------
    iterations
        Of conjugate gradients; few, so that frequencies which no image measures stay as they are.
    floor
        Least curvature of the preconditioner as a fraction of its mean over the open frequencies.
    """

    takes: ClassVar[Takes] = "all"

    iterations: int = 8
    floor: float = 0.02

    def init(self, volume: Tensor) -> EMState:
        """State before the first step."""
        del volume
        return EMState()

    def step(self, state: EMState, volume: Tensor, local: Local) -> Move:
        """Solve the M-step."""
        mean = float(local.curvature[local.spectrum.open].mean())
        if mean == 0.0:
            return Move(volume, state, 0.0)
        precision = local.precision(local.curvature)
        inverse = inverse_curvature(local.curvature + precision, local.spectrum, self.floor)
        step = conjugate_gradient(
            lambda v: local.normal(local.weights, v) + local.prior(precision, v),
            local.gradient + local.prior(precision, volume),
            lambda residual: local.spectrum.scaled(residual, inverse),
            self.iterations,
        )
        return Move(volume - local.rate * step, state, local.rate / mean)
