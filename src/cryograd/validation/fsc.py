"""Fourier shell correlation of two maps, and the resolution that it gives."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def _shells(size: int) -> NDArray[np.int64]:
    """Nearest integer radius of each coefficient of a half-space transform, shape (L, L, L//2 + 1)."""
    full = np.rint(np.fft.fftfreq(size, 1.0 / size)) ** 2
    half = np.arange(size // 2 + 1.0) ** 2
    return np.rint(np.sqrt(full[:, None, None] + full[:, None] + half)).astype(np.int64)


def _pair_counts(size: int) -> FloatArray:
    """Times that a coefficient counts by its kx: the planes without conjugate partners once, others twice."""
    counts = np.full(size // 2 + 1, 2.0)
    counts[0] = 1.0
    if size % 2 == 0:
        counts[-1] = 1.0
    return counts


def fsc(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
    """Fourier shell correlation of two maps on the same grid.

    Parameters
    ----------
    a, b
        Maps of shape (L, L, L). Mask them before: nothing is masked here.

    Returns
    -------
    shells
        Radii 0 to L // 2 in Fourier pixels, 1 / (box × pixel size), shape (L // 2 + 1,).
    values
        Correlation of the coefficients nearest to each radius, shape (L // 2 + 1,); 0 where a map has none.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 3 or len(set(a.shape)) != 1:
        raise ValueError(f"maps of shapes {a.shape} and {b.shape} are not cubes of one size")
    size = a.shape[0]
    n = size // 2 + 1
    shells = _shells(size).ravel()
    counts = np.broadcast_to(_pair_counts(size), (size, size, n)).ravel()
    fa, fb = (np.fft.rfftn(x).ravel() for x in (a, b))

    def total(values: np.ndarray) -> FloatArray:
        return np.bincount(shells, counts * values, minlength=n)[:n].astype(np.float64)

    cross = total(fa.real * fb.real + fa.imag * fb.imag)
    power = total(np.abs(fa) ** 2) * total(np.abs(fb) ** 2)
    values = np.divide(cross, np.sqrt(power), out=np.zeros(n), where=power > 0.0)
    return np.arange(n), values


def soft_sphere(size: int, radius: float, edge: float) -> FloatArray:
    """Spherical mask around voxel ``size // 2``, one inside and zero outside a raised-cosine edge.

    Parameters
    ----------
    size
        Box size L in voxels.
    radius
        Radius in voxels up to which the mask is one.
    edge
        Width of the edge in voxels, outside the radius; 0 for a hard mask.

    Returns
    -------
    FloatArray
        Mask of shape (L, L, L).
    """
    x2 = (np.arange(size) - float(size // 2)) ** 2
    beyond = np.sqrt(x2[:, None, None] + x2[:, None] + x2) - radius
    if edge == 0.0:
        return (beyond <= 0.0).astype(np.float64)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond / edge, 0.0, 1.0))


def resolution_at(values: ArrayLike, threshold: float, box: int, pixel_size: float) -> float | None:
    """Resolution at which a Fourier shell correlation first falls below a threshold.

    The crossing is interpolated linearly between shells. The origin is left out, and what rises above
    the threshold again after the first crossing is ignored.

    Parameters
    ----------
    values
        Correlation of shells 0, 1, ... up to Nyquist, as `fsc` returns it.
    threshold
        0.143 for half-maps, 0.5 for a map against a known truth.
    box
        Box size in pixels.
    pixel_size
        Å.

    Returns
    -------
    float | None
        Resolution in Å: the last shell's when the correlation never falls below the threshold, None when the
        first shell is already below it.
    """
    v = np.asarray(values, dtype=np.float64)
    below = np.flatnonzero(v[1:] < threshold) + 1
    if len(below) == 0:
        return box * pixel_size / (len(v) - 1)
    last = int(below[0])
    if last == 1:
        return None
    crossing = last - (threshold - v[last]) / (v[last - 1] - v[last])
    return box * pixel_size / crossing
