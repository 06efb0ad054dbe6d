"""Poses that are taken as they are: one for each image."""

from dataclasses import dataclass

import numpy as np
import torch

from cryograd.pose.posterior import Cells
from cryograd.rotations import FloatArray


@dataclass(frozen=True)
class Known:
    """The pose of each image of a batch.

    Parameters
    ----------
    rotations
        Shape (B, 3, 3).
    shifts
        Å, shape (B, 2).
    """

    rotations: FloatArray
    shifts: FloatArray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rotations)

    def at(self, images: slice | np.ndarray) -> "Known":
        """The poses of some of the images, by their places."""
        return Known(self.rotations[images], self.shifts[images])

    def part(self, images: slice) -> "Known":
        """The poses of some of the images in a row."""
        return self.at(images)

    def cells(self, device: torch.device) -> Cells:
        """The poses as the only candidates of their images, without an extent."""
        rotations = torch.as_tensor(self.rotations[:, None], dtype=torch.float32, device=device)
        return Cells(
            rotations, torch.as_tensor(self.shifts[:, None], dtype=torch.float32, device=device), 0.0, 0.0
        )
