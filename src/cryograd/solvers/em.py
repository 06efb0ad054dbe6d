"""Expectation maximisation: all images, and conjugate gradients at fixed responsibilities."""

from dataclasses import dataclass
from typing import ClassVar

from cryograd.steps.conjugate_gradient import conjugate_gradient, inverse_curvature
from cryograd.steps.protocol import Local, Move, Needs, Stepper, Volume


@dataclass(frozen=True)
class EMState:
    """EM remembers nothing but the volume."""

    def resized(self, size: int) -> "EMState":
        """The state itself."""
        del size
        return self


@dataclass(frozen=True)
class EM(Stepper):
    """V ← V − d with H d = g: the M-step, H being the Hessian of the complete data and the spectral prior.

    Parameters
    ----------
    iterations
        Of conjugate gradients; few, so that frequencies which no image measures stay as they are.
    floor
        Least curvature of the preconditioner as a fraction of its mean over the open frequencies.
    """

    needs: ClassVar[Needs] = Needs(takes="all", stages=(6, 12, 4))

    iterations: int = 8
    floor: float = 0.02

    def init(self, volume: Volume) -> EMState:
        """State before the first step."""
        del volume
        return EMState()

    def step(self, state: EMState, volume: Volume, local: Local) -> Move:
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


SOLVER = EM()
