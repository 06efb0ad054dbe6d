"""Loops of the sampler over pairs of directions, compiled: they run once for every image."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cryograd.fused import fma
from cryograd.rotations import FloatArray

# Kernels are zero where they are below exp of minus this.
NEGLIGIBLE_EXPONENT = 18.0


@njit(cache=True)
def fisher_spread(
    vectors: FloatArray, centres: FloatArray, weights: FloatArray, width: float
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Σ_i w_i exp((cos δ_ij − 1)/w²) at unit vectors (J, d) around centres (M, d), and the nearest centre.

    ``width`` is w; both are of shape (J,). d is 2 or 3.
    """
    spread, nearest = np.empty(len(vectors)), np.zeros(len(vectors), dtype=np.int64)
    solid = vectors.shape[1] == 3
    concentration = 1.0 / width**2
    least = 1.0 - NEGLIGIBLE_EXPONENT * width**2
    for j in range(len(vectors)):
        x, y, z = vectors[j, 0], vectors[j, 1], vectors[j, 2] if solid else 0.0
        largest, total = -2.0, 0.0
        for i in range(len(centres)):
            cosine = fma(x, centres[i, 0], y * centres[i, 1])
            if solid:
                cosine = fma(z, centres[i, 2], cosine)
            if cosine > largest:
                largest, nearest[j] = cosine, i
            if cosine > least:
                total += weights[i] * np.exp((cosine - 1.0) * concentration)
        spread[j] = total
    return spread, nearest


@njit(cache=True)
def grouped(vectors: FloatArray, cosine: float, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put each unit vector (M, 3) in the group of the first one that is near enough to it and founds a group.

    Returns
    -------
    founders
        Indices of the vectors that found groups, at most ``most``.
    group
        Of each vector, −1 where no group is left for it, shape (M,).
    """
    founders, group, count = np.empty(most, dtype=np.int64), np.full(len(vectors), -1), 0
    for i in range(len(vectors)):
        for g in range(count):
            first = vectors[founders[g]]
            if first[0] * vectors[i, 0] + first[1] * vectors[i, 1] + first[2] * vectors[i, 2] > cosine:
                group[i] = g
                break
        if group[i] < 0 and count < most:
            founders[count], group[i] = i, count
            count += 1
    return founders[:count], group
