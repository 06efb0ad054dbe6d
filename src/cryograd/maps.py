"""A map in memory: density with its pixel size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryograd.data.mrc import read_map, write_map


@dataclass(frozen=True)
class Map:
    """Density on a cubic grid.

    Parameters
    ----------
    values
        Shape (L, L, L), zyx, float32; projections are sums of voxels along the ray.
    pixel_size
        Å.
    source
        The file that it was read from, for messages; None where it was made in memory.
    """

    values: NDArray[np.float32]
    pixel_size: float
    source: Path | None = None

    @staticmethod
    def read(path: Path | str) -> "Map":
        """Read a file.

        Parameters
        ----------
        path
            File (.mrc).
        """
        return Map(*read_map(Path(path)), Path(path))

    def write(self, path: Path | str) -> None:
        """Write a file, which appears complete or not at all.

        Parameters
        ----------
        path
            File (.mrc).
        """
        write_map(Path(path), self.values, self.pixel_size)

    @property
    def extent(self) -> float:
        """Side of the box in Å."""
        return len(self.values) * self.pixel_size
