"""Newton steps on a running quadratic: each minibatch's gradient, carried along by its curvature."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from cryograd.fourier import resize_spectrum, resize_volume
from cryograd.solvers.conjugate_gradient import conjugate_gradient, inverse_curvature
from cryograd.solvers.protocol import Local, Move, Takes


@dataclass(frozen=True)
class Quadratic:
    """½ ⟨V, H V⟩ − ⟨c, V⟩, summed over minibatches.

    Parameters
    ----------
    share
        Of the images that the sum is over.
    weights
        Sufficient statistic of H; a half-space grid (2m + 1, 2m + 1, m + 1, ...) where it grows with the
        radius.
    curvature
        Row sums of H per coefficient.
    linear
        c = H V_k − g_k, g_k being the gradient at the volume V_k that the minibatch was evaluated at.
    """

    share: float
    weights: Tensor
    curvature: Tensor
    linear: Tensor

    @staticmethod
    def of(local: Local, volume: Tensor, share: float) -> "Quadratic":
        """What a minibatch with a share of the images says near the volume that it was evaluated at."""
        linear = local.normal(local.weights, volume) - local.gradient
        return Quadratic(1.0, local.weights, local.curvature, linear) * share

    def newton_step(
        self, volume: Tensor, local: Local, floor: float, iterations: int, tolerance: float
    ) -> Tensor:
        """d with V − d the minimum of the mean over the images and the prior, by conjugate gradients."""
        every = self * (1.0 / self.share)
        precision = local.precision(every.curvature)
        inverse = inverse_curvature(every.curvature + precision, local.spectrum, floor)

        def hessian(v: Tensor) -> Tensor:
            return local.normal(every.weights, v) + local.prior(precision, v)

        return conjugate_gradient(
            hessian,
            hessian(volume) - every.linear,
            lambda residual: local.spectrum.scaled(residual, inverse),
            iterations,
            tolerance,
        )

    def __add__(self, other: "Quadratic") -> "Quadratic":
        return Quadratic(
            self.share + other.share,
            _sum(self.weights, other.weights),
            self.curvature + other.curvature,
            self.linear + other.linear,
        )

    def __mul__(self, factor: float) -> "Quadratic":
        return Quadratic(
            factor * self.share, factor * self.weights, factor * self.curvature, factor * self.linear
        )

    def to(self, device: torch.device) -> "Quadratic":
        """The sum with its tensors on a device."""
        parts = (t.to(device) for t in (self.weights, self.curvature, self.linear))
        return Quadratic(self.share, *parts)

    def in_type(self, dtype: torch.dtype) -> "Quadratic":
        """The sum with its weights in another type."""
        return Quadratic(self.share, self.weights.to(dtype), self.curvature, self.linear)

    def resized(self, size: int) -> "Quadratic":
        """The sum over maps of another box whose coefficients are the same."""
        curvature = resize_spectrum(self.curvature, size) * (size / len(self.linear)) ** 3
        return Quadratic(self.share, self.weights, curvature, resize_volume(self.linear, size))


@dataclass(frozen=True)
class IncrementalState:
    """The quadratic of each minibatch at its last visit, None before its first, and their sum."""

    parts: tuple[Quadratic | None, ...]
    total: Quadratic | None

    def to(self, device: torch.device) -> "IncrementalState":
        """The state with its tensors on a device."""
        return IncrementalState(
            tuple(part and part.to(device) for part in self.parts), self.total and self.total.to(device)
        )

    def resized(self, size: int) -> "IncrementalState":
        """The state for maps of another box."""
        return IncrementalState(
            tuple(part and part.resized(size) for part in self.parts), self.total and self.total.resized(size)
        )

    def replaced(
        self, number: int, minibatches: int, seen: Quadratic, dtype: torch.dtype
    ) -> "IncrementalState":
        """The state with a new quadratic of one of the minibatches, kept with weights of a type."""
        parts = list(self.parts or (None,) * minibatches)
        total = seen if self.total is None else self.total + seen
        before, parts[number] = parts[number], seen.in_type(dtype)
        return IncrementalState(tuple(parts), total if before is None else total + before * -1.0)


@dataclass(frozen=True)
class Incremental:
    """V ← V − η H̄⁻¹ ∇̄, with ∇̄ = Σ_k (g_k + H_k (V − V_k)) over the minibatches, each at its last visit.

    A minibatch's gradient grows old as V moves on, and steps along a mean of old gradients swing. But most of
    what makes it old is known: it changes by the curvature times the way that V has gone. Carried along so,
    it costs nothing to keep up to date, and the mean has the variance of a full pass at the cost of a
    minibatch. At known poses the objective is quadratic, and ∇̄ is the exact gradient of all images seen. With
    unknown poses H_k is the Hessian of the complete data, and this is incremental EM (Neal & Hinton, 1998; a
    case of MISO, Mairal, 2013): responsibilities stay those of the last visit.

    Parameters
    ----------
    iterations, tolerance
        Of conjugate gradients for H̄⁻¹; they look at no image.
    floor
        Least curvature of their preconditioner as a fraction of its mean over the open frequencies.
    kept
        Type in which the minibatches' weights are kept; None for their own.
    """

    takes: ClassVar[Takes] = "parts"

    iterations: int = 8
    tolerance: float = 0.03
    floor: float = 0.02
    kept: torch.dtype | None = None

    def init(self, volume: Tensor) -> IncrementalState:
        """State before the first step."""
        del volume
        return IncrementalState((), None)

    def step(self, state: IncrementalState, volume: Tensor, local: Local) -> Move:
        """Put the minibatch's quadratic in the place of its last one, and step to the minimum of the sum."""
        number, minibatches = local.minibatch
        share, dtype = 1.0 / minibatches, local.weights.dtype
        kept = self.kept or dtype
        # All that follows has the weights that are kept: c too, lest V ends where the gradients do not
        # vanish, and the sum, lest something stays when they are taken out again.
        weights = (share * local.weights).to(kept).to(dtype) / share
        seen = Quadratic.of(replace(local, weights=weights), volume, share)
        state = state.replaced(number, minibatches, seen, kept)
        total = state.total
        assert total is not None
        mean = float(total.curvature[local.spectrum.open].mean()) / total.share
        if mean == 0.0:
            return Move(volume, state, 0.0)
        step = total.newton_step(volume, local, self.floor, self.iterations, self.tolerance)
        return Move(volume - local.rate * step, state, local.rate / mean)


def quadratic_bytes(size: int, radius: float, weight: int = 4) -> int:
    """Bytes that a quadratic takes in real voxels, at a radius in Fourier pixels, and each weight in it."""
    half = int(2 * radius) + 1
    return weight * (2 * half + 1) ** 2 * (half + 1) + 4 * (size**2 * (size // 2 + 1) + size**3)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two statistics, of which one may be of a smaller radius."""
    if a.shape == b.shape:
        return a + b
    half = max(a.shape[2], b.shape[2]) - 1
    return _widened(a, half) + _widened(b, half)


def _widened(weights: Tensor, half: int) -> Tensor:
    """A half-space grid with zeros around it."""
    more = half - (weights.shape[2] - 1)
    behind = [0, 0] * (weights.dim() - 3)
    return pad(weights, (*behind, 0, more, more, more, more, more)) if more else weights
