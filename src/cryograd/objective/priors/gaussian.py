"""Density is near zero."""

from dataclasses import dataclass

from cryograd.objective.prior import AnyDensity, Density


@dataclass(frozen=True)
class Gaussian(AnyDensity):
    """p(v) ∝ exp(−λ v² / 2 s²).

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
    def scaled(cls, scale: float, weight: float) -> "Gaussian":
        """The prior on a scale s, with a strength λ."""
        return cls(scale, weight)

    def value(self, volume: Density) -> float:
        """Σ λ v² / 2 s²."""
        return 0.5 * self._precision * float(volume.double().square().sum())

    def gradient(self, volume: Density) -> Density:
        """λ v / s²."""
        return self._precision * volume

    @property
    def _precision(self) -> float:
        return self.weight / self.scale**2


PRIOR = Gaussian
