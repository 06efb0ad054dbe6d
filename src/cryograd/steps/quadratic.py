"""A quadratic in the volume: what images say near the volume that they were looked at with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryograd.fourier import resize_spectrum, resize_volume
from cryograd.steps.conjugate_gradient import conjugate_gradient, inverse_curvature
from cryograd.steps.protocol import Local, PerCoefficient, Volume


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
    weights: Float[Tensor, "..."]
    curvature: PerCoefficient
    linear: Volume

    @staticmethod
    def of(local: Local, volume: Volume, share: float) -> "Quadratic":
        """What a minibatch with a share of the images says near the volume that it was evaluated at."""
        linear = local.normal(local.weights, volume) - local.gradient
        return Quadratic(share, local.weights, local.curvature, linear)

    def newton_step(
        self, volume: Volume, local: Local, floor: float, iterations: int, tolerance: float
    ) -> Volume:
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

    def resized(self, size: int) -> "Quadratic":
        """The same over maps of another box whose coefficients are the same."""
        curvature = resize_spectrum(self.curvature, size) * (size / len(self.linear)) ** 3
        return Quadratic(self.share, self.weights, curvature, resize_volume(self.linear, size))


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
