"""Priors on density, behind one protocol that a new prior implements in a few lines."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class Improper:
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

    def project(self, volume: Tensor) -> Tensor:
        """The volume itself."""
        return volume


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
