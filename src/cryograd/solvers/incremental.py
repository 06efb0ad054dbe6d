"""Newton steps on a running quadratic: each minibatch's gradient, carried along by its curvature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cryograd.fourier import resize_spectrum, resize_volume
from cryograd.solvers.conjugate_gradient import conjugate_gradient, inverse_curvature
from cryograd.solvers.protocol import Local, Move, Takes


@dataclass(frozen=True)
class Quadratic:
    """½ ⟨V, H V⟩ − ⟨c, V⟩, a mean over images.

    Parameters
    ----------
    share
        Of all images that the mean is over.
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
        return Quadratic(share, local.weights, local.curvature, linear)

    def newton_step(
        self, volume: Tensor, local: Local, floor: float, iterations: int, tolerance: float
    ) -> Tensor:
        """d with V − d the minimum together with the prior, by conjugate gradients."""
        precision = local.precision(self.curvature)
        inverse = inverse_curvature(self.curvature + precision, local.spectrum, floor)

        def hessian(v: Tensor) -> Tensor:
            return local.normal(self.weights, v) + local.prior(precision, v)

        return conjugate_gradient(
            hessian,
            hessian(volume) - self.linear,
            lambda residual: local.spectrum.scaled(residual, inverse),
            iterations,
            tolerance,
        )

    @staticmethod
    def mean(parts: Sequence["Quadratic"]) -> "Quadratic":
        """The mean over all images of some parts, whose weights may be of several radii."""
        share, widest = sum(part.share for part in parts), max(parts, key=lambda part: part.weights.numel())
        total = Quadratic(
            share,
            torch.zeros_like(widest.weights, dtype=torch.promote_types(widest.weights.dtype, torch.float32)),
            torch.zeros_like(widest.curvature),
            torch.zeros_like(widest.linear),
        )
        for part in parts:
            within = _within(total.weights, part.weights.shape)
            within.add_(part.weights, alpha=part.share / share)
            total.curvature.add_(part.curvature, alpha=part.share / share)
            total.linear.add_(part.linear, alpha=part.share / share)
        return total

    def to(self, device: torch.device) -> "Quadratic":
        """The same with its tensors on a device."""
        parts = (t.to(device) for t in (self.weights, self.curvature, self.linear))
        return Quadratic(self.share, *parts)

    def resized(self, size: int) -> "Quadratic":
        """The same over maps of another box whose coefficients are the same."""
        curvature = resize_spectrum(self.curvature, size) * (size / len(self.linear)) ** 3
        return Quadratic(self.share, self.weights, curvature, resize_volume(self.linear, size))


@dataclass(frozen=True)
class IncrementalState:
    """The quadratic of each minibatch at its last visit; None before its first."""

    parts: tuple[Quadratic | None, ...]

    def to(self, device: torch.device) -> "IncrementalState":
        """The state with its tensors on a device."""
        return IncrementalState(tuple(part and part.to(device) for part in self.parts))

    def resized(self, size: int) -> "IncrementalState":
        """The state for maps of another box."""
        return IncrementalState(tuple(part and part.resized(size) for part in self.parts))

    def replaced(self, number: int, minibatches: int, seen: Quadratic) -> "IncrementalState":
        """The state with a new quadratic of one of the minibatches."""
        parts = list(self.parts or (None,) * minibatches)
        parts[number] = seen
        return IncrementalState(tuple(parts))

    def mean(self) -> Quadratic:
        """What all minibatches seen say. It is not kept: it would be the largest part of a refinement."""
        return Quadratic.mean([part for part in self.parts if part is not None])


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
    """

    takes: ClassVar[Takes] = "parts"

    iterations: int = 8
    tolerance: float = 0.03
    floor: float = 0.02

    def init(self, volume: Tensor) -> IncrementalState:
        """State before the first step."""
        del volume
        return IncrementalState(())

    def step(self, state: IncrementalState, volume: Tensor, local: Local) -> Move:
        """Put the minibatch's quadratic in the place of its last one, and step to the minimum of the sum."""
        number, minibatches = local.minibatch
        state = state.replaced(number, minibatches, Quadratic.of(local, volume, 1.0 / minibatches))
        mean = state.mean()
        bend = float(mean.curvature[local.spectrum.open].mean())
        if bend == 0.0:
            return Move(volume, state, 0.0)
        step = mean.newton_step(volume, local, self.floor, self.iterations, self.tolerance)
        return Move(volume - local.rate * step, state, local.rate / bend)


def quadratic_bytes(size: int, radius: float, weight: int = 4) -> int:
    """Bytes that a quadratic takes in real voxels, at a radius in Fourier pixels, and each weight in it."""
    half = int(2 * radius) + 1
    return weight * (2 * half + 1) ** 2 * (half + 1) + 4 * (size**2 * (size // 2 + 1) + size**3)


def _within(weights: Tensor, shape: torch.Size) -> Tensor:
    """The part of a half-space grid of weights that those of a shape, maybe of a smaller radius, take."""
    if weights.shape == shape:
        return weights
    margin = weights.shape[2] - shape[2]
    return weights[margin:-margin, margin:-margin, : shape[2]]
