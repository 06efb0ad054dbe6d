"""What a solver is given and what it returns: a new solver is two methods on these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Local:
    """The objective near a volume V, on one minibatch.

    Parameters
    ----------
    loss
        Its value at V, a mean over images.
    gradient
        Its gradient at V, shape (L, L, L).
    curvature
        Row sums of the complete-data Hessian per Fourier coefficient, (L, L, L//2 + 1), in the unit in which
        F⁻¹[F g / h] is Newton's step.
    precision
        Curvature in the same unit of a prior on the spectrum, whose gradient is part of ``gradient``.
    value
        The objective at another volume, the poses that it is summed over kept fixed.
    normal
        Product of the complete-data Hessian at V and a volume.
    radius
        Open frequencies, in Fourier pixels.
    rate
        Step size of the schedule.
    iteration
        Number of the iteration, from 0.
    minibatch
        Number of the minibatch in a fixed partition of the images, and how many there are.
    """

    loss: float
    gradient: Tensor
    curvature: Tensor
    precision: Tensor
    value: Callable[[Tensor], float]
    normal: Callable[[Tensor], Tensor]
    radius: float
    rate: float
    iteration: int
    minibatch: tuple[int, int]


@dataclass(frozen=True)
class Move:
    """A step.

    Parameters
    ----------
    volume
        The new volume, before prior, mask and projection.
    state
        The solver's new state.
    length
        Step length of a gradient that is not preconditioned; the prior's is multiplied by it.
    """

    volume: Tensor
    state: Any
    length: float


class SolverState(Protocol):
    """What a solver remembers: a dataclass of tensors and plain data, as a checkpoint keeps it."""

    def to(self, device: torch.device) -> "SolverState":
        """The state with its tensors on a device."""
        ...


class Solver(Protocol):
    """How a volume is changed. Settings are fields; all that changes is in the state.

    ``partitioned`` says that the minibatches are those of a fixed partition of the images; ``batch`` that
    every iteration takes all images.
    """

    partitioned: ClassVar[bool]
    batch: ClassVar[bool]

    def init(self, volume: Tensor) -> Any:
        """State before the first step."""
        ...

    def step(self, state: Any, volume: Tensor, local: Local) -> Move:
        """Take one step from a volume (L, L, L)."""
        ...
