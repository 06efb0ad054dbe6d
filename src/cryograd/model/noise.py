"""Variance of the noise per Fourier shell and optics group."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryograd.fourier import HalfDisc, fourier_2d, radius_grid


@dataclass(frozen=True)
class Noise:
    """Noise of the unnormalised transform: E|n(k)|² = variance[group, shell of k].

    Parameters
    ----------
    variance
        Shape (groups, shells), shells by nearest integer radius.
    """

    variance: Tensor

    def on_disc(self, disc: HalfDisc, group: Tensor) -> Tensor:
        """Variance at each coefficient of each image, shape (B, K)."""
        shells = torch.as_tensor(disc.shells, device=self.variance.device)
        return self.variance[:, shells][group]

    def updated(self, seen: "NoisePower", rate: float) -> "Noise":
        """The variance moved towards what the residuals of a minibatch say.

        Parameters
        ----------
        seen
            What is left of the images.
        rate
            Weight of the minibatch in the running average.
        """
        known = seen.count > 0
        factor = torch.ones_like(seen.power)
        factor[known] = 1.0 - rate + rate * seen.power[known] / seen.count[known]
        return Noise((self.variance.double() * factor).to(self.variance.dtype))


@dataclass(frozen=True)
class NoisePower:
    """What is left of images beside their model, in units of the noise; that of other images adds up to it.

    Parameters
    ----------
    power
        Σ E|X − C P V|² / σ² over the coefficients of a shell and the images of an optics group, over the
        fraction of the noise that an image's mask leaves: (groups, shells), float64.
    count
        Number of these coefficients, (groups, shells).
    """

    power: Tensor
    count: Tensor

    @staticmethod
    def of(
        residual: Tensor, disc: HalfDisc, group: Tensor, noise: Noise, counts: Tensor | None = None
    ) -> "NoisePower":
        """The sums over some images.

        Parameters
        ----------
        residual
            Of each image, summed over each shell, shape (B, S).
        disc
            The coefficients.
        group
            Optics group of each image, shape (B,).
        noise
            The present variance.
        counts
            How much each image counts, shape (B,); None where each counts once.
        """
        groups, shells = noise.variance.shape
        each = torch.ones_like(residual[:, 0]) if counts is None else counts
        each = each.double()
        power = torch.zeros(groups, shells, dtype=torch.float64, device=residual.device)
        power[:, : residual.shape[1]].index_add_(0, group, each[:, None] * residual.double())
        coefficients = torch.bincount(torch.as_tensor(disc.shells, device=residual.device), minlength=shells)
        images = torch.bincount(group, weights=each, minlength=groups)
        return NoisePower(power, images[:, None] * coefficients)

    def __add__(self, other: "NoisePower") -> "NoisePower":
        """The sums over the images of both."""
        return NoisePower(self.power + other.power, self.count + other.count)


def noise_from_corners(images: Tensor, group: Tensor, groups: int, radius: float) -> Noise:
    """Noise variance from what lies outside a circle around the image centre.

    Parameters
    ----------
    images
        Real images (n, L, L).
    group
        Optics group of each image, shape (n,).
    groups
        Number of optics groups.
    radius
        Radius of the circle in pixels; the corners must hold at least some of the image.
    """
    size = images.shape[-1]
    axis = torch.arange(size, device=images.device) - size // 2
    distance = torch.hypot(*torch.meshgrid(axis.float(), axis.float(), indexing="ij"))
    outside = 0.5 - 0.5 * torch.cos(torch.pi * ((distance - radius) / 3.0 + 0.5).clamp(0.0, 1.0))
    power = fourier_2d(images * outside).abs().square().double() / outside.square().mean()
    shells = torch.round(radius_grid(size, 2, images.device)).long().clamp(max=size // 2).expand_as(power)
    where = (group[:, None, None] * (size // 2 + 1) + shells).reshape(-1)
    total = torch.zeros(groups * (size // 2 + 1), dtype=torch.float64, device=images.device)
    count = torch.zeros_like(total)
    total.index_add_(0, where, power.reshape(-1))
    count.index_add_(0, where, torch.ones_like(where, dtype=torch.float64))
    variance = (total / count.clamp(min=1)).view(groups, -1)
    # Corners leak DC into the first shell; the second is a better guess of it.
    variance[:, :2] = variance[:, 2:3]
    return Noise(variance.float())
