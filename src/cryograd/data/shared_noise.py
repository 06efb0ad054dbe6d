"""Which particles share their noise: copies of one image, and places that were picked twice."""

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from cryograd.data.particles import IntArray, Particles
from cryograd.rotations import FloatArray

# Å within which two picks of one micrograph are one particle; and the pixel size of micrographs in Å where
# the file does not say it: particles are farther apart even if it is three times as large.
APART, PIXEL_SIZE = 20.0, 1.5
# What this pixel size may be called; the first that is there counts.
_PIXEL_SIZES = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")
_PLACES = {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"}


def has_places(particles: Particles) -> bool:
    """Whether the file says where on which micrograph particles were picked."""
    return set(particles.table.columns) >= _PLACES


def noise_number(particles: Particles, apart: float = APART, alike: IntArray | None = None) -> IntArray:
    """Number of the noise of each particle, from 0 in the order of the file, shape (n,).

    Particles of one image have the same, and so have picks of one micrograph that are nearly in one place.
    Were they in both half-sets, these would correlate by their noise.

    Parameters
    ----------
    particles
        The particles, one at least.
    apart
        Å within which two picks of one micrograph are nearly in one place.
    alike
        Further pairs (m, 2) of particles that share their noise, as `noise_copies` finds them.
    """
    pairs, image = _picked_twice(particles, apart), particles.image_number
    if alike is not None:
        pairs = np.concatenate([pairs, alike])
    if not len(pairs):
        return image
    import pandas as pd

    count = int(image.max()) + 1
    links = coo_matrix((np.ones(len(pairs)), (image[pairs[:, 0]], image[pairs[:, 1]])), (count, count))
    joined = connected_components(links, directed=False)[1]
    return pd.factorize(joined[image])[0].astype(np.int64)


def _picked_twice(particles: Particles, apart: float) -> IntArray:
    """Pairs of particles (m, 2) that are nearly in one place; none where the file has no coordinates."""
    table, none = particles.table, np.zeros((0, 2), dtype=np.int64)
    if not has_places(particles):
        return none
    import pandas as pd

    places = np.stack([_numbers(table[f"rlnCoordinate{axis}"]) for axis in "XY"], axis=1)
    places *= _scale(particles)[:, None]
    # A third coordinate holds micrographs apart. Places that are no numbers are near none.
    micrograph = pd.factorize(table["rlnMicrographName"])[0]
    points = np.concatenate([places, (2.0 * apart + 1.0) * micrograph[:, None]], axis=1)
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    pairs = KDTree(points[known]).query_pairs(apart, output_type="ndarray")
    return known[pairs] if len(pairs) else none


def _scale(particles: Particles) -> FloatArray:
    """Å of a pixel of each particle's coordinates, shape (n,)."""
    sizes = np.full(len(particles), PIXEL_SIZE)
    for name in reversed(_PIXEL_SIZES):
        for table, rows in ((particles.optics_table, particles.optics_index), (particles.table, slice(None))):
            if name in table.columns:
                given = _numbers(table[name])[rows]
                sizes = np.where(given > 0.0, given, sizes)
    return sizes


def _numbers(column: Any) -> FloatArray:
    """A column as numbers, NaN where a value is none."""
    import pandas as pd

    return np.asarray(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
