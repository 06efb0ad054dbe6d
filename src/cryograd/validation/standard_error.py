"""Standard error of the mean of two half maps: what the curvature expects, as far as the halves confirm it.

At known poses the noise of the likeliest map has the covariance (n H)⁻¹, H being the Hessian of the mean
loss. That is nearly diagonal in Fourier space, so that the noise has one variance everywhere, but for the
neighbourhood of symmetry axes, where fewer independent values are averaged over the point group. Unknown
poses add to it where there is density, and the images' masks take from it outside the particle. By how much
says half the difference of the half maps, which has the noise of their mean and no signal.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cryograd.fourier import lowpass_volume, lowpass_window, radius_grid
from cryograd.model.symmetry import group_matrices
from cryograd.objective.shrinkage import shell_means
from cryograd.rotations import FloatArray

# Standard deviation, in wavelengths of the resolution, of the window in which the half maps are looked at.
_WINDOW = 1.0
# Steps of a wavelength at which the noise's covariance is tabulated.
_STEPS = 16

Map = NDArray[np.float32]


@dataclass(frozen=True)
class StandardError:
    """How far a map may be off.

    Parameters
    ----------
    values
        Standard deviation of each voxel, (L, L, L).
    excess
        The variance that the half maps have there over the one that the curvature expects, (L, L, L).
    """

    values: Map
    excess: Map


def expected_variance(curvature: Tensor, images: int, ridge: float) -> FloatArray:
    """Variance that each shell adds to a voxel of the likeliest map at known poses, shape (W // 2 + 1,).

    Coefficients of the map have the variance W³ h / (n (h + r)²), r being the ridge that its solution had.

    Parameters
    ----------
    curvature
        Row sums h of the Hessian of the mean over images, (W, W, W//2 + 1), in the unit of Newton's step.
    images
        Number n of images.
    ridge
        r as a fraction of the shell's mean of h.
    """
    size = len(curvature)
    regular = curvature + ridge * shell_means(curvature)
    power = torch.where(curvature > 0.0, curvature / regular.square(), 0.0).double() / images
    # All but the first plane stand for their conjugates too.
    power[..., 1:] *= 2.0
    shell = radius_grid(size, 3, curvature.device).round().long()
    total = torch.bincount(shell.flatten(), power.flatten())[: size // 2 + 1]
    return total.cpu().numpy() / size**3


def expected_map(
    variance: FloatArray, extent: float, size: int, pixel_size: float, symmetry: str
) -> FloatArray:
    """Variance of each voxel of stationary noise that is averaged over a point group G, (L, L, L).

    (1/|G|) Σ_g c(|x − g x|), with the noise's covariance c(r) = Σ_s v_s sin(u)/u, u = 2π s r / extent.

    Parameters
    ----------
    variance
        v_s, that each shell adds to a voxel, shape (S,).
    extent
        Å; shell s has the frequency s / extent.
    size, pixel_size
        Side of the map in voxels, and their size in Å.
    symmetry
        Point group.
    """
    shells = np.arange(len(variance))
    finest = np.flatnonzero(variance)[-1] / extent
    # Farther than half the box there is nothing, and shells' sums repeat themselves.
    distances = np.arange(0.0, 0.5 * extent, 1.0 / (_STEPS * finest))
    covariance = np.sinc(2.0 / extent * np.outer(distances, shells)) @ variance
    axis = (np.arange(size) - size // 2) * pixel_size
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    group = group_matrices(symmetry)
    total = np.zeros((size, size, size))
    for moved in np.eye(3) - group:
        parts = (a * x + b * y + c * z for a, b, c in moved)
        total += np.interp(np.sqrt(sum(part**2 for part in parts)), distances, covariance, right=0.0)
    return total / len(group)


def standard_error(
    first: Map,
    second: Map,
    pixel_size: float,
    resolution: float,
    variance: FloatArray,
    extent: float,
    symmetry: str,
) -> StandardError:
    """Standard error of the mean of two unfiltered half maps, low-passed at a resolution.

    It is the standard deviation that the mean would have over other images of the same molecule. What both
    halves share is not in it: the start, the blur by wrong poses, an error of the CTF.

    Parameters
    ----------
    first, second
        Unfiltered half maps (L, L, L), symmetric.
    pixel_size, resolution
        Å.
    variance
        That each shell is expected to add to a voxel of their mean, without symmetry, shape (S,).
    extent
        Å; shell s has the frequency s / extent.
    symmetry
        Point group.
    """
    size = len(first)
    difference = torch.from_numpy(0.5 * (first - second))
    found = lowpass_volume(difference, size * pixel_size / resolution).numpy() ** 2
    window = lowpass_window(torch.arange(len(variance)), extent / resolution).numpy()
    expected = expected_map(variance * window**2, extent, size, pixel_size, symmetry)
    width = _WINDOW * resolution / pixel_size
    excess = gaussian_filter(found, width) / gaussian_filter(expected, width)
    return StandardError(np.sqrt(expected * excess).astype(np.float32), excess.astype(np.float32))
