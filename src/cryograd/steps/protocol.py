"""What a solver is given and what it returns: a new solver is two methods on these."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Inexact, Shaped
from torch import Tensor

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid

# The diagonal of the complete-data Hessian per row sum, for linear interpolation.
DIAGONAL_SHARE = 8.0 / 27.0
# The images of an iteration: all, the next ones of a shuffled sequence, or a part of a fixed partition, the
# parts in turn or at random.
Takes = Literal["all", "shuffled", "parts", "random parts"]
# Real voxels (L, L, L), or whatever else the functions of a spectrum take: complex numbers of any shape.
# Within one call all volumes have one shape, and so has all that there is per coefficient.
Volume = Inexact[Tensor, "*volume"]
PerCoefficient = Float[Tensor, "*coefficients"]


@dataclass(frozen=True)
class Needs:
    """What a solver asks of the loop around it.

    Parameters
    ----------
    takes
        The images of an iteration.
    hard
        Whether each image counts at its best pose alone.
    spectral
        Whether the noise of an ab initio map is measured, for a prior on the spectrum.
    falling
        Whether the step size falls harmonically at the end, for steps that are no averages themselves.
    half_start
        Whether minibatches are half as large while there are several starts.
    stages
        Iterations of selection, of the march, and at the final radius; None for those of a pass over the
        images, within bounds.
    held_out
        Images that are held out by default.
    """

    takes: Takes = "shuffled"
    hard: bool = False
    spectral: bool = False
    falling: bool = False
    half_start: bool = False
    stages: tuple[int, int, int | None] = (24, 32, None)
    held_out: int = 0


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
    open: Bool[Tensor, "*coefficients"]

    @staticmethod
    def of_voxels(size: int, radius: float, device: torch.device) -> "Spectrum":
        """For real voxels (L, L, L): the half-space transform, open up to a radius in Fourier pixels."""
        open_ = radius_grid(size, 3, device) <= radius
        return Spectrum(fourier_3d, lambda coefficients: inverse_fourier_3d(coefficients, size), open_)

    def scaled(self, volume: Volume, factors: Float[Tensor, "..."]) -> Volume:
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
    gradient: Volume
    curvature: PerCoefficient
    precision: Callable[[Tensor], Tensor]
    weights: Shaped[Tensor, "..."]
    value: Callable[[Tensor], float]
    normal: Callable[[Tensor, Tensor], Tensor]
    spectrum: Spectrum
    radius: float
    rate: float
    iteration: int
    epoch: int
    minibatch: tuple[int, int]

    def prior(self, precision: PerCoefficient, volume: Volume) -> Volume:
        """Gradient of the prior on the spectrum, ``precision`` being in the unit of row sums."""
        return self.spectrum.scaled(volume, DIAGONAL_SHARE * precision)

    def penalised(self, volume: Volume) -> "Local":
        """The objective with the prior on the spectrum in it, for solvers that do not look at precisions.

        Parameters
        ----------
        volume
            V.
        """
        precision = self.precision(self.curvature)
        if not precision.any():
            return self

        def penalty(where: Volume) -> float:
            return 0.5 * dot(where, self.prior(precision, where))

        return replace(
            self,
            loss=self.loss + penalty(volume),
            gradient=self.gradient + self.prior(precision, volume),
            curvature=self.curvature + precision,
            precision=torch.zeros_like,
            value=lambda where: self.value(where) + penalty(where),
            normal=lambda weights, v: self.normal(weights, v) + self.prior(precision, v),
        )


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

    volume: Volume
    state: Any
    length: float


@runtime_checkable
class SolverState(Protocol):
    """What a solver remembers: a record as `cryograd.steps.state` describes it."""

    def resized(self, size: int) -> "SolverState":
        """The state for maps of another box whose Fourier coefficients are the same.

        With s the ratio of the boxes' numbers of voxels, gradients keep their values (`resize_volume`), and
        curvatures, also those that a line search finds, are multiplied by s.
        """
        ...


@runtime_checkable
class Solver(Protocol):
    """How a volume is changed. Settings are fields; all that changes is in the state.

    Parameters
    ----------
    needs
        What it asks of the loop around it.
    """

    needs: ClassVar[Needs]

    def init(self, volume: Tensor) -> Any:
        """State before the first step.

        Parameters
        ----------
        volume
            The volume that steps begin from.
        """
        ...

    def step(self, state: Any, volume: Tensor, local: Local) -> Move:
        """Take one step from a volume.

        Parameters
        ----------
        state
            State after the last step.
        volume
            The volume.
        local
            The objective near it.
        """
        ...

    def minibatch_bytes(self, size: int, radius: float) -> int:
        """Bytes that are kept of each minibatch.

        Parameters
        ----------
        size
            Side of the maps' box in voxels.
        radius
            Open frequencies, in Fourier pixels.
        """
        ...

    def fixed_bytes(self, size: int, radius: float) -> int:
        """Bytes that are taken besides, however many minibatches there are.

        Parameters
        ----------
        size
            Side of the maps' box in voxels.
        radius
            Open frequencies, in Fourier pixels.
        """
        ...


class Stepper:
    """A solver that keeps nothing of single minibatches."""

    needs: ClassVar[Needs] = Needs()

    def minibatch_bytes(self, size: int, radius: float) -> int:
        """Zero."""
        del size, radius
        return 0

    def fixed_bytes(self, size: int, radius: float) -> int:
        """Zero."""
        del size, radius
        return 0


def dot(a: Volume, b: Volume) -> float:
    """Inner product Re Σ a* b, in double precision."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float((a.double() * b.double()).sum())
