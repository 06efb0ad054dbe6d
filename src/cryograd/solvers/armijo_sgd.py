"""Gradient steps whose length an Armijo search finds on each minibatch (Toader, Brubaker & Lederman)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from cryograd.steps.armijo import ArmijoSearch, ArmijoState
from cryograd.steps.protocol import Local, Move, Needs, Stepper, Volume

PLAIN = ArmijoSearch(first=1.0, growth=2.0)


@dataclass(frozen=True)
class ArmijoSGDState:
    """The last step, and the side in voxels of the box that it was taken in."""

    search: ArmijoState
    size: int

    def resized(self, size: int) -> "ArmijoSGDState":
        """The state for maps of another box: steps along gradients of the same values shrink as sums grow."""
        return ArmijoSGDState(self.search.scaled((self.size / size) ** 3), size)


@dataclass(frozen=True)
class ArmijoSGD(Stepper):
    """V ← V − η D⁻¹ g with a diagonal D that is known beforehand: 1 is plain SGD, as the paper's.

    Parameters
    ----------
    diagonal
        D, in the unit of `Local.curvature`.
    search
        How η is found; the default is the paper's for plain SGD.
    """

    needs: ClassVar[Needs] = Needs(stages=(32, 128, 90), held_out=100)

    diagonal: Tensor = field(default_factory=lambda: torch.ones(()))
    search: ArmijoSearch = PLAIN

    def init(self, volume: Volume) -> ArmijoSGDState:
        """State before the first step."""
        return ArmijoSGDState(ArmijoState(), volume.shape[-1])

    def step(self, state: ArmijoSGDState, volume: Volume, local: Local) -> Move:
        """Take one step."""
        local = local.penalised(volume)
        moved, search, step = self.search.descend(
            state.search, volume, self.diagonal.to(volume.device), local
        )
        return Move(moved, replace(state, search=search), step / float(self.diagonal.mean()))


SOLVER = ArmijoSGD()
