"""Sharpening of the mean of two half maps: B-factor from a Guinier plot, weights from their correlation.

P. B. Rosenthal & R. Henderson, *Optimal determination of particle orientation, absolute hand, and contrast
loss in single-particle electron cryomicroscopy*, J. Mol. Biol. 333 (2003).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.rotations import FloatArray
from cryograd.validation.gold_standard import GoldStandard

# Å. Coarser than this a molecule's amplitudes follow its shape, not the loss of contrast.
_GUINIER_LIMIT = 10.0
# Å. A plot that ends before this shows little but the molecule's own fall-off.
_COARSEST_FIT = 6.0
# Shells of a fit with a standard error worth the name.
_LEAST_SHELLS = 5
# Width of the low-pass filter's edge in Fourier pixels.
_EDGE = 2.0


@dataclass(frozen=True)
class Guinier:
    """A straight line through the logarithm of the signal's amplitudes over the squared frequency.

    Parameters
    ----------
    b_factor
        B in Å² of amplitudes that fall off as exp(−B k²/4); 0 where there is no fit.
    error
        Standard error of B in Å² as the scatter around the line tells it; 0 where there is no fit.
    no_fit
        Why there is no fit, and nothing to sharpen by; None where there is one.
    """

    b_factor: float
    error: float
    no_fit: str | None = None


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map.

    Parameters
    ----------
    density
        Shape (L, L, L).
    guinier
        What it was sharpened by.
    """

    density: NDArray[np.float32]
    guinier: Guinier


def signal_weights(correlation: ArrayLike) -> FloatArray:
    """Weight √(2 F/(1 + F)) of each shell of the mean of half maps with correlation F; 0 where F is negative.

    It is the expected correlation of the mean with the noise-free map.
    """
    values = np.clip(np.asarray(correlation, dtype=np.float64), 0.0, 1.0)
    return np.sqrt(2.0 * values / (1.0 + values))


def guinier(density: ArrayLike, half_maps: GoldStandard) -> Guinier:
    """Estimate the B-factor of a map from 10 Å to its resolution.

    The amplitude of a shell is the root mean square of its coefficients times `signal_weights`, which takes
    the noise's share away. There is no fit where the resolution is coarser than 6 Å, where fewer than 5
    shells lie in the range, and where the amplitudes do not fall off.

    Parameters
    ----------
    density
        Mean of the half maps in the mask that the correlation was computed in, shape (L, L, L).
    half_maps
        Their correlation.
    """
    resolution = half_maps.resolution()
    if resolution is None or resolution > _COARSEST_FIT:
        reached = "there is none" if resolution is None else f"it is {resolution:.1f} Å"
        return Guinier(0.0, 0.0, f"a B-factor needs a resolution of {_COARSEST_FIT:g} Å, and {reached}")
    shells = np.arange(half_maps.box // 2 + 1)
    frequency = shells / half_maps.extent
    weights = signal_weights(half_maps.correlation)
    used = (frequency >= 1.0 / _GUINIER_LIMIT) & (frequency <= 1.0 / resolution) & (weights > 0.0)
    if used.sum() < _LEAST_SHELLS:
        return Guinier(
            0.0, 0.0, f"only {used.sum()} shells lie between {_GUINIER_LIMIT:g} Å and the resolution"
        )
    amplitudes = np.log(weights[used] * _amplitudes(density)[used])
    line, covariance = np.polyfit(frequency[used] ** 2, amplitudes, 1, cov=True)
    b_factor, error = -4.0 * float(line[0]), 4.0 * float(np.sqrt(covariance[0, 0]))
    if b_factor <= 0.0:
        return Guinier(0.0, 0.0, f"the amplitudes do not fall off (B = {b_factor:.0f} ± {error:.0f} Å²)")
    return Guinier(b_factor, error)


def sharpened(first: ArrayLike, second: ArrayLike, mask: ArrayLike, half_maps: GoldStandard) -> Sharpened:
    """The mean of two half maps, weighted by their correlation, sharpened and low-passed at its resolution.

    Where no shell is resolved the mean is given as it is.

    Parameters
    ----------
    first, second
        Unfiltered half maps of shape (L, L, L).
    mask
        The mask of the correlation; the sharpened map is not masked.
    half_maps
        Their correlation.
    """
    mean = 0.5 * (np.asarray(first, dtype=np.float32) + np.asarray(second, dtype=np.float32))
    fit = guinier(mean * np.asarray(mask, dtype=np.float32), half_maps)
    resolution = half_maps.resolution()
    if resolution is None:
        return Sharpened(mean, fit)
    radius = radius_grid(half_maps.box, 3)
    shells = np.arange(half_maps.box // 2 + 1)
    weights = signal_weights(half_maps.correlation)
    # The origin's correlation is a sign.
    weights[0] = 1.0
    beyond = (shells - half_maps.extent / resolution) / _EDGE + 0.5
    weights *= 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0.0, 1.0))
    weights *= np.exp(0.25 * fit.b_factor * (shells / half_maps.extent) ** 2)
    window = torch.from_numpy(np.interp(radius.numpy(), shells, weights, right=0.0).astype(np.float32))
    spectrum = fourier_3d(torch.from_numpy(mean)) * window
    return Sharpened(inverse_fourier_3d(spectrum, half_maps.box).numpy(), fit)


def _amplitudes(density: ArrayLike) -> FloatArray:
    """Root mean square amplitude of the coefficients of each shell, shape (L // 2 + 1,)."""
    volume = np.asarray(density, dtype=np.float32)
    size = volume.shape[0]
    shells = np.rint(radius_grid(size, 3).numpy()).astype(np.int64).ravel()
    power = np.abs(np.fft.rfftn(volume).ravel()) ** 2
    return np.sqrt(np.bincount(shells, power) / np.bincount(shells))[: size // 2 + 1]
