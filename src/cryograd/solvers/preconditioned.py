"""Minibatch steps preconditioned by the running curvature, with momentum."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryograd.fourier import resize_spectrum, resize_volume
from cryograd.steps.protocol import Local, Move, Needs, Stepper, Volume


@dataclass(frozen=True)
class PreconditionedState:
    """What a run of the solver remembers.

    Parameters
    ----------
    momentum
        Running mean of the gradients, as the volume, and the weight that it has gathered.
    curvature
        Running mean of the curvatures per coefficient, and its weight, which newly opened frequencies
        gather from the start: both means are free of the bias towards their start at zero.
    """

    momentum: Volume
    momentum_weight: float
    curvature: Float[Tensor, "*coefficients"]
    curvature_weight: Float[Tensor, "*coefficients"]

    def resized(self, size: int) -> "PreconditionedState":
        """The state for maps of another box whose coefficients are the same."""
        momentum = resize_volume(self.momentum, size)
        if not self.momentum_weight:
            return replace(self, momentum=momentum)
        return PreconditionedState(
            momentum,
            self.momentum_weight,
            resize_spectrum(self.curvature, size) * (size / len(self.momentum)) ** 3,
            resize_spectrum(self.curvature_weight, size),
        )


@dataclass(frozen=True)
class Preconditioned(Stepper):
    """V ← V − η F⁻¹[ F m / max(h, floor) ], m and h the running means of gradient and curvature.

    Parameters
    ----------
    momentum
        Decay of the running gradient per step.
    memory
        Decay of the running curvature per step.
    floor
        Least curvature as a fraction of its mean over the open frequencies: starved ones move slowly.
    """

    needs: ClassVar[Needs] = Needs(spectral=True, falling=True, half_start=True)

    momentum: float = 0.5
    memory: float = 0.9
    floor: float = 0.02

    def init(self, volume: Volume) -> PreconditionedState:
        """State before the first step; numbers in place of what is per coefficient."""
        nothing = torch.zeros((), device=volume.device)
        return PreconditionedState(torch.zeros_like(volume), 0.0, nothing, nothing.clone())

    def step(self, state: PreconditionedState, volume: Volume, local: Local) -> Move:
        """Take one step of the schedule's size η; curvatures being row sums, 1 is a third of a Newton step.

        The length that it returns divides by the mean curvature and not by each frequency's: priors push
        along frequencies that no image measures, DC above all.
        """
        open_ = local.spectrum.open
        bend = float(local.curvature[open_].mean())
        if bend == 0.0:
            return Move(volume, state, 0.0)
        precision = local.precision(local.curvature)
        gradient = local.gradient + local.prior(precision, volume)
        following = PreconditionedState(
            self.momentum * state.momentum + (1.0 - self.momentum) * gradient,
            self.momentum * state.momentum_weight + (1.0 - self.momentum),
            self.memory * state.curvature + (1.0 - self.memory) * (local.curvature + precision),
            self.memory * state.curvature_weight + (1.0 - self.memory) * open_,
        )
        mean = following.curvature[open_] / following.curvature_weight[open_]
        inverse = torch.zeros_like(local.curvature)
        inverse[open_] = 1.0 / torch.clamp(mean, min=self.floor * float(mean.mean()))
        direction = local.spectrum.scaled(following.momentum / following.momentum_weight, inverse)
        moved = volume - local.rate * direction
        return Move(moved, following, local.rate / bend)


SOLVER = Preconditioned()
