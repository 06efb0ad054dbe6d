"""Stochastic gradient descent with momentum, its step from a Lipschitz line search."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from cryograd.fourier import resize_volume
from cryograd.steps.decay import StepDecay
from cryograd.steps.line_search import Lipschitz, LipschitzSearch
from cryograd.steps.protocol import Local, Move, Needs, Stepper, Volume


@dataclass(frozen=True)
class SGDState:
    """Running mean of the gradients (L, L, L), the weight it has gathered, and the Lipschitz constant."""

    momentum: Volume
    weight: float
    lipschitz: Lipschitz

    def resized(self, size: int) -> "SGDState":
        """The state for maps of another box whose coefficients are the same."""
        larger = (size / self.momentum.shape[-1]) ** 3
        return SGDState(resize_volume(self.momentum, size), self.weight, self.lipschitz.scaled(larger))


@dataclass(frozen=True)
class SGD(Stepper):
    """V ← V − (ε/L) m, m the running mean of the minibatches' gradients.

    Parameters
    ----------
    momentum
        Decay of the running gradient per step.
    decay
        How ε falls.
    search
        How L is found.
    """

    needs: ClassVar[Needs] = Needs(stages=(32, 128, 90), held_out=100)

    momentum: float = 0.9
    decay: StepDecay = field(default_factory=StepDecay)
    search: LipschitzSearch = field(default_factory=LipschitzSearch)

    def init(self, volume: Volume) -> SGDState:
        """State before the first step."""
        return SGDState(torch.zeros_like(volume), 0.0, Lipschitz())

    def step(self, state: SGDState, volume: Volume, local: Local) -> Move:
        """Take one step."""
        local = local.penalised(volume)
        lipschitz = self.search(state.lipschitz, volume, local)
        momentum = self.momentum * state.momentum + (1.0 - self.momentum) * local.gradient
        weight = self.momentum * state.weight + (1.0 - self.momentum)
        length = local.rate * self.decay(local.iteration) * lipschitz.inverse
        moved = volume - (length / weight) * momentum
        return Move(moved, SGDState(momentum, weight, lipschitz), length)


SOLVER = SGD()
