"""Density is smooth (CVPR 2015)."""

from dataclasses import dataclass

import torch
from torch.nn.functional import conv3d

from cryograd.objective.prior import AnyDensity, Density

# Width in voxels of the neighbourhood in which the prior wants a smooth density; its scale in units of the
# data's voxel scale (CVPR 2015).
WIDTH, SCALE = 0.5, 75.0


@dataclass(frozen=True)
class ConditionalAutoregressive(AnyDensity):
    """−log p = λ vᵀ (I − W) v / 2 (75 s)²: a voxel is near the mean of its neighbours (CAR).

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

    @classmethod
    def scaled(cls, scale: float, weight: float) -> "ConditionalAutoregressive":
        """The prior on a scale s, with a strength λ."""
        return cls(scale, weight)

    def value(self, volume: Density) -> float:
        """λ vᵀ (I − W) v / 2 (75 s)²."""
        return 0.5 * float((volume.double() * self.gradient(volume).double()).sum())

    def gradient(self, volume: Density) -> Density:
        """λ (I − W) v / (75 s)²; outside the box density is zero."""
        offset = torch.arange(-2.0, 3.0, dtype=volume.dtype, device=volume.device)
        line = torch.exp(-0.5 * (offset / WIDTH) ** 2)
        kernel = line[:, None, None] * line[:, None] * line
        kernel[2, 2, 2] = 0.0
        means = conv3d(volume[None, None], (kernel / kernel.sum())[None, None], padding=2)[0, 0]
        return self.weight / (SCALE * self.scale) ** 2 * (volume - means)


PRIOR = ConditionalAutoregressive
