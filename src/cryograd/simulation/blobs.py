"""Random starting volumes."""

import numpy as np

_BLOBS = 60
# In units of the particle's radius.
_STEP, _REACH, _WIDTH = 0.25, 0.7, 0.18


def random_blobs(size: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Sum of Gaussian blobs along a random walk inside a sphere (CVPR 2015).

    Parameters
    ----------
    size
        Box size L in voxels.
    radius
        Radius of the particle in voxels.
    rng
        Source of the walk.

    Returns
    -------
    np.ndarray
        Density of shape (L, L, L), float32, maximum 1.
    """
    axis = np.arange(size) - size // 2
    position = np.zeros(3)
    density = np.zeros((size, size, size))
    for _ in range(_BLOBS):
        position = position + rng.normal(size=3) * _STEP * radius
        distance = float(np.linalg.norm(position))
        if distance > _REACH * radius:
            # A walk that leaves the sphere goes on from a random place on the same ray.
            position *= rng.uniform() * _REACH * radius / distance
        x, y, z = np.exp(-0.5 * ((axis - position[:, None]) / (_WIDTH * radius)) ** 2)
        density += z[:, None, None] * y[:, None] * x
    return (density / density.max()).astype(np.float32)
