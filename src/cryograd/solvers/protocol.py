"""What a solver is given and what it returns: a new solver is two methods on these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid

# The diagonal of the complete-data Hessian per row sum, for linear interpolation.
DIAGONAL_SHARE = 8.0 / 27.0
# The images of an iteration: all, the next ones of a shuffled sequence, or a part of a fixed partition, the
# parts in turn or at random.
Takes = Literal["all", "shuffled", "parts", "random parts"]


@dataclass(frozen=True)
class Spectrum:
    """The coordinates in which a curvature is nearly diagonal: Fourier coefficients.

    Parameters
    ----------
    of
        Coefficients of a volume.
    volume
        Volume of coefficients.
    open
        Which coefficients the images are compared at, bool.
    """

    of: Callable[[Tensor], Tensor]
    volume: Callable[[Tensor], Tensor]
    open: Tensor

    @staticmethod
    def of_voxels(size: int, radius: float, device: torch.device) -> "Spectrum":
        """For real voxels (L, L, L): the half-space transform, open up to a radius in Fourier pixels."""
        open_ = radius_grid(size, 3, device) <= radius
        return Spectrum(fourier_3d, lambda coefficients: inverse_fourier_3d(coefficients, size), open_)

    def scaled(self, volume: Tensor, factors: Tensor) -> Tensor:
        """F⁻¹[factors · F v]."""
        return self.volume(self.of(volume) * factors)


@dataclass(frozen=True)
class Local:
    """The objective near a volume V, on one minibatch.

    Volumes are real voxels (L, L, L) with coefficients (L, L, L//2 + 1), or whatever else the spectrum's
    functions take.

    Parameters
    ----------
    loss
        Its value at V, a mean over images.
    gradient
        Its gradient at V, that of no prior included.
    curvature
        Row sums of the complete-data Hessian per Fourier coefficient, in the unit in which F⁻¹[F g / h] is
        Newton's step.
    precision
        Curvature in the same unit of a Gaussian prior on the spectrum, given that of the likelihood.
    weights
        The Hessian's sufficient statistic, a mean over images: of several minibatches it is their mean.
    value
        The objective at another volume, the poses that it is summed over kept fixed.
    normal
        Product of the complete-data Hessian that weights stand for and a volume.
    spectrum
        Fourier coefficients.
    radius
        Open frequencies, in Fourier pixels.
    rate
        Step size of the schedule.
    iteration, epoch
        Number of the iteration and of the pass over the images, from 0.
    minibatch
        Number of the minibatch in its pass, or in a fixed partition of the images, and how many there are.
    """

    loss: float
    gradient: Tensor
    curvature: Tensor
    precision: Callable[[Tensor], Tensor]
    weights: Tensor
    value: Callable[[Tensor], float]
    normal: Callable[[Tensor, Tensor], Tensor]
    spectrum: Spectrum
    radius: float
    rate: float
    iteration: int
    epoch: int
    minibatch: tuple[int, int]

    def prior(self, precision: Tensor, volume: Tensor) -> Tensor:
        """Gradient of the prior on the spectrum, ``precision`` being in the unit of row sums."""
        return self.spectrum.scaled(volume, DIAGONAL_SHARE * precision)


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
    """How a volume is changed. Settings are fields; all that changes is in the state."""

    takes: ClassVar[Takes]

    def init(self, volume: Tensor) -> Any:
        """State before the first step."""
        ...

    def step(self, state: Any, volume: Tensor, local: Local) -> Move:
        """Take one step from a volume."""
        ...


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product Re Σ a* b, in double precision."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float((a.double() * b.double()).sum())
