"""Stochastic gradient descent with momentum, its step from a Lipschitz line search."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cryograd.solvers.line_search import Lipschitz, LipschitzSearch
from cryograd.solvers.protocol import Local, Move, Takes
from cryograd.solvers.schedule import StepDecay


@dataclass(frozen=True)
class SGDState:
    """Running mean of the gradients (L, L, L), the weight it has gathered, and the Lipschitz constant."""

    momentum: Tensor
    weight: float
    lipschitz: Lipschitz

    def to(self, device: torch.device) -> "SGDState":
        """The state with its tensors on a device."""
        return SGDState(self.momentum.to(device), self.weight, self.lipschitz)


@dataclass(frozen=True)
class SGD:
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

    takes: ClassVar[Takes] = "shuffled"

    momentum: float = 0.9
    decay: StepDecay = field(default_factory=StepDecay)
    search: LipschitzSearch = field(default_factory=LipschitzSearch)

    def init(self, volume: Tensor) -> SGDState:
        """State before the first step."""
        return SGDState(torch.zeros_like(volume), 0.0, Lipschitz())

    def step(self, state: SGDState, volume: Tensor, local: Local) -> Move:
        """Take one step."""
        lipschitz = self.search(state.lipschitz, volume, local)
        momentum = self.momentum * state.momentum + (1.0 - self.momentum) * local.gradient
        weight = self.momentum * state.weight + (1.0 - self.momentum)
        length = local.rate * self.decay(local.iteration) * lipschitz.inverse
        moved = volume - (length / weight) * momentum
        return Move(moved, SGDState(momentum, weight, lipschitz), length)
