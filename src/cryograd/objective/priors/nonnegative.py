"""Density is not negative, and that is all that is known."""

import math
from dataclasses import dataclass

import torch

from cryograd.objective.prior import Density


@dataclass(frozen=True)
class Nonnegative:
    """All densities v ≥ 0 are equally probable."""

    @classmethod
    def scaled(cls, scale: float, weight: float) -> "Nonnegative":
        """The same for all data."""
        del scale, weight
        return cls()

    def value(self, volume: Density) -> float:
        """Zero; infinite for negative density."""
        return math.inf if bool((volume < 0).any()) else 0.0

    def gradient(self, volume: Density) -> Density:
        """Zero."""
        return torch.zeros_like(volume)

    def project(self, volume: Density) -> Density:
        """Negative density is set to zero."""
        return volume.clamp(min=0.0)


PRIOR = Nonnegative
