"""Stacks of images for tests."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryograd.data.mrc import StackWriter


def write_stack(path: Path, images: NDArray[np.floating], pixel_size: float) -> None:
    """Write images of shape (n, L, L), float32 or float16, with their pixel size in Å."""
    with StackWriter(path, len(images), images.shape[-1], pixel_size, images.dtype) as writer:
        writer.append(images)
