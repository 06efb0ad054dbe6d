"""No prior on density."""

from dataclasses import dataclass

import torch

from cryograd.objective.prior import AnyDensity, Density


@dataclass(frozen=True)
class Improper(AnyDensity):
    """All densities are equally probable."""

    @classmethod
    def scaled(cls, scale: float, weight: float) -> "Improper":
        """The same for all data."""
        del scale, weight
        return cls()

    def value(self, volume: Density) -> float:
        """Zero."""
        del volume
        return 0.0

    def gradient(self, volume: Density) -> Density:
        """Zero."""
        return torch.zeros_like(volume)


PRIOR = Improper
