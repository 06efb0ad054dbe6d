"""Solvent is empty and density is not negative (CVPR 2015)."""

from dataclasses import dataclass

import torch

from cryograd.objective.prior import Density
from cryograd.objective.priors.nonnegative import Nonnegative


@dataclass(frozen=True)
class Exponential(Nonnegative):
    """p(v) ∝ exp(−λ v / s) for v ≥ 0; at λ = 0 it is `Nonnegative`.

    Parameters
    ----------
    scale
        Voxel scale s of the data.
    weight
        λ.
    """

    scale: float
    weight: float = 0.9

    @classmethod
    def scaled(cls, scale: float, weight: float) -> "Exponential":
        """The prior on a scale s, with a strength λ."""
        return cls(scale, weight)

    def value(self, volume: Density) -> float:
        """Σ λ v / s; infinite for negative density."""
        return super().value(volume) + self.weight / self.scale * float(volume.double().sum())

    def gradient(self, volume: Density) -> Density:
        """λ / s in every voxel."""
        return torch.full_like(volume, self.weight / self.scale)


PRIOR = Exponential
