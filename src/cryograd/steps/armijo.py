"""The length of a step by an Armijo search on its minibatch (Toader, Brubaker & Lederman)."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from cryograd.steps.protocol import Local, Volume, dot


@dataclass(frozen=True)
class ArmijoState:
    """The last step η, and the epoch that it was found in."""

    step: float = 0.0
    epoch: int = -1

    def scaled(self, factor: float) -> "ArmijoState":
        """The state with its step multiplied, for gradients in another unit."""
        return replace(self, step=factor * self.step)


@dataclass(frozen=True)
class ArmijoSearch:
    """η halved until f(V − η D⁻¹ g) ≤ f(V) − c η ⟨g, D⁻¹ g⟩ on the minibatch (arXiv 2311.16100, Algorithm 1).

    On a quadratic that holds up to 2 (1 − c) times the best step along the line: c = 0.99 takes a fiftieth.

    Parameters
    ----------
    first
        η at the start of every epoch; in the paper's units, in which a CTF is at most 1.
    growth
        η is multiplied by this before every step.
    decrease
        c.
    longest
        Halvings after which the volume stays as it is: differences are rounding.
    """

    first: float
    growth: float
    decrease: float = 0.99
    longest: int = 40

    def descend(
        self, known: ArmijoState, volume: Volume, diagonal: Float[Tensor, "..."], local: Local
    ) -> tuple[Volume, ArmijoState, float]:
        """The volume after a step, what to remember, and η; 0 where the search gave up.

        Parameters
        ----------
        known
            What the search before this found.
        volume
            V.
        diagonal
            D, for each coefficient or one number for all.
        local
            The objective on the minibatch.
        """
        direction = local.spectrum.scaled(local.gradient, 1.0 / diagonal)
        slope = dot(local.gradient, direction)
        before = known.step if known.epoch == local.epoch else self.first
        for halvings in range(self.longest if slope > 0.0 else 0):
            step = self.growth * before * 0.5**halvings
            moved = volume - step * direction
            if local.value(moved) <= local.loss - self.decrease * step * slope:
                return moved, ArmijoState(step, local.epoch), step
        return volume, ArmijoState(before, local.epoch), 0.0
