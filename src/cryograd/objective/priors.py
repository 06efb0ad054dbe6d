"""Priors on density, behind one protocol that a new prior implements in a few lines."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv3d

# Width in voxels of the neighbourhood in which the CAR prior wants a smooth density; its scale in units of
# the data's voxel scale (CVPR 2015).
CAR_WIDTH, CAR_SCALE = 0.5, 75.0


class Prior(Protocol):
    """−log p(V), its gradient and curvature, and the projection onto the densities that it allows."""

    def value(self, volume: Tensor) -> float:
        """−log p(V) up to a constant."""
        ...

    def gradient(self, volume: Tensor) -> Tensor:
        """Gradient of the value, shape of the volume."""
        ...

    def curvature(self, volume: Tensor) -> float:
        """A bound on the second derivative of the value along any voxel."""
        ...

    def project(self, volume: Tensor) -> Tensor:
        """The nearest density that is allowed."""
        ...


class _AnyDensity:
    """A prior that allows all densities."""

    def project(self, volume: Tensor) -> Tensor:
        """The volume itself."""
        return volume


@dataclass(frozen=True)
class Improper(_AnyDensity):
    """All densities are equally probable."""

    def value(self, volume: Tensor) -> float:
        """Zero."""
        return 0.0

    def gradient(self, volume: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(volume)

    def curvature(self, volume: Tensor) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True)
class Exponential:
    """p(v) ∝ exp(−λ v / s) for v ≥ 0: solvent is empty and density is not negative (CVPR 2015).

    Parameters
    ----------
    scale
        Voxel scale s of the data.
    weight
        λ.
    """

    scale: float
    weight: float = 0.9

    def value(self, volume: Tensor) -> float:
        """Σ λ v / s; infinite for negative density."""
        if bool((volume < 0).any()):
            return float("inf")
        return self.weight / self.scale * float(volume.double().sum())

    def gradient(self, volume: Tensor) -> Tensor:
        """λ / s in every voxel."""
        return torch.full_like(volume, self.weight / self.scale)

    def curvature(self, volume: Tensor) -> float:
        """Zero: the value is linear."""
        return 0.0

    def project(self, volume: Tensor) -> Tensor:
        """Negative density is set to zero."""
        return volume.clamp(min=0.0)


@dataclass(frozen=True)
class Gaussian(_AnyDensity):
    """p(v) ∝ exp(−λ v² / 2 s²): density is near zero.

    Parameters
    ----------
    scale
        Voxel scale s of the data.
    weight
        λ.
    """

    scale: float
    weight: float = 0.9

    def value(self, volume: Tensor) -> float:
        """Σ λ v² / 2 s²."""
        return 0.5 * self.curvature(volume) * float(volume.double().square().sum())

    def gradient(self, volume: Tensor) -> Tensor:
        """λ v / s²."""
        return self.curvature(volume) * volume

    def curvature(self, volume: Tensor) -> float:
        """λ / s²."""
        return self.weight / self.scale**2


@dataclass(frozen=True)
class ConditionalAutoregressive(_AnyDensity):
    """−log p = λ vᵀ (I − W) v / 2 (75 s)²: a voxel is near the mean of its neighbours (CAR, CVPR 2015).

    W is a normalised Gaussian without its centre.

    Parameters
    ----------
    scale
        Voxel scale s of the data.
    weight
        λ.
    """

    scale: float
    weight: float = 0.9

    def value(self, volume: Tensor) -> float:
        """λ vᵀ (I − W) v / 2 (75 s)²."""
        return 0.5 * float((volume.double() * self.gradient(volume).double()).sum())

    def gradient(self, volume: Tensor) -> Tensor:
        """λ (I − W) v / (75 s)²; outside the box density is zero."""
        offset = torch.arange(-2.0, 3.0, dtype=volume.dtype, device=volume.device)
        line = torch.exp(-0.5 * (offset / CAR_WIDTH) ** 2)
        kernel = line[:, None, None] * line[:, None] * line
        kernel[2, 2, 2] = 0.0
        means = conv3d(volume[None, None], (kernel / kernel.sum())[None, None], padding=2)[0, 0]
        return 0.5 * self.curvature(volume) * (volume - means)

    def curvature(self, volume: Tensor) -> float:
        """2 λ / (75 s)²: W's eigenvalues lie within ±1."""
        return 2.0 * self.weight / (CAR_SCALE * self.scale) ** 2


# The priors that are on the scale of the data, by the names of the option.
SCALED: dict[str, type[Exponential] | type[Gaussian] | type[ConditionalAutoregressive]] = {
    "exponential": Exponential,
    "car": ConditionalAutoregressive,
    "gaussian": Gaussian,
}
