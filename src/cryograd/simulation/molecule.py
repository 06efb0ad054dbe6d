"""The molecule of the demonstration."""

import numpy as np
from numpy.typing import NDArray

from cryograd.model.symmetry import group_matrices

SYMMETRY = "D2"
# Number of blobs in a chain; in Å their width, the distance of neighbours, and how far they reach in x, y, z.
_BLOBS, _BLOB_WIDTH, _STEP, _REACH = 24, 5.5, 13.0, np.array([38.0, 50.0, 70.0])
_START, _SEED = (10.0, 8.0, 9.0), 2


def molecule(box: int, pixel_size: float) -> NDArray[np.float32]:
    """Density (box, box, box) of a made-up molecule: four copies of a chain of blobs, related by D2.

    Parameters
    ----------
    box
        Box size in voxels.
    pixel_size
        Å; the molecule is about 140 Å long.
    """
    group = group_matrices(SYMMETRY)
    rng = np.random.default_rng(_SEED)
    chain = [np.array(_START)]
    while len(chain) < _BLOBS:
        step = rng.normal(size=3)
        end = chain[-1] + _STEP * step / np.linalg.norm(step)
        copies = np.vstack([group @ blob for blob in chain] + [(group @ end)[1:]])
        # Compact, and in the way of no other blob.
        apart = np.linalg.norm(copies - end, axis=1).min() > 0.9 * _STEP
        if apart and np.linalg.norm(end / _REACH) < 1.0:
            chain.append(end)
    axis = (np.arange(box) - box // 2) * pixel_size
    density = np.zeros((box, box, box))
    for x, y, z in (group @ np.array(chain).T).swapaxes(1, 2).reshape(-1, 3):
        gx, gy, gz = (np.exp(-0.5 * ((axis - p) / _BLOB_WIDTH) ** 2) for p in (x, y, z))
        density += gz[:, None, None] * gy[:, None] * gx
    return density.astype(np.float32)
