"""Local resolution of a map from its two half maps.

The half maps are band-passed, and the correlation of each band is taken in a Gaussian window around every
voxel (Cardone, Heymann & Steven, J. Struct. Biol. 184, 226, 2013). Filtering comes before windowing and
masking, which then make no correlation of their own (Penczek, IUCrJ 7, 995, 2020). Bands and windows are as
wide as their wavelength demands, so that a correlation is of about 350 independent values at every
resolution.
"""

import math

import numpy as np
import torch
from torch import Tensor

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid

_THRESHOLD = 0.143
# Half-width of a band in the logarithm of the frequency; the next band's centre is half of it away.
_HALF_WIDTH = 0.2
# Standard deviation of the window in wavelengths.
_WINDOW = 1.5
# First band in Fourier pixels: waves of a quarter of the box.
_FIRST = 4.0
# A correlation is below the threshold when it is so by this many standard errors. The first of several noisy
# crossings comes too early: with windows of 1, 1.5 and 2 wavelengths (105, 355 and 841 values) the median of
# a uniform map was 9.29, 8.95 and 8.78 Å without this, and is 8.86, 8.79 and 8.70 Å.
_STANDARD_ERRORS = 0.5


def local_resolution(half1: Tensor, half2: Tensor, mask: Tensor, pixel_size: float) -> Tensor:
    """Wavelength at which the local correlation of two half maps first falls below 0.143.

    Parameters
    ----------
    half1, half2
        Unfiltered, unmasked half maps (L, L, L).
    mask
        Weight of each voxel in the windows, 0 to 1, (L, L, L).
    pixel_size
        Å.

    Returns
    -------
    Tensor
        Å, shape (L, L, L), between Nyquist and a quarter of the box; a quarter of the box outside the mask.
    """
    size = len(half1)
    radius = radius_grid(size, 3, half1.device).to(half1.dtype)
    spectra = *_whitened(fourier_3d(half1), fourier_3d(half2), radius), fourier_3d(mask)
    frequencies = _frequencies(size)
    # What is longer than the first band's waves counts as resolved, and the last band as the limit.
    before, excess_before = frequencies[0], torch.ones((), device=half1.device)
    crossing, resolved = torch.tensor(frequencies[-1]).to(half1), torch.tensor(True, device=half1.device)
    for frequency in frequencies:
        excess = _local_correlation(spectra, radius, frequency) - _THRESHOLD
        falls = resolved & (excess < 0.0)
        share = excess_before / (excess_before - excess)
        crossing = torch.where(falls, before * (frequency / before) ** share, crossing)
        resolved = resolved & ~falls
        before, excess_before = frequency, excess
    fine = _windowed(size * pixel_size / crossing, _interpolation(size).to(radius))
    return torch.where(mask > 0.0, fine, size * pixel_size / _FIRST)


def _frequencies(size: int) -> list[float]:
    """Centres of the bands in Fourier pixels, up to Nyquist."""
    number = 1 + math.ceil(math.log(0.5 * size / _FIRST) / (0.5 * _HALF_WIDTH))
    return np.geomspace(_FIRST, 0.5 * size, number).tolist()


def _whitened(a: Tensor, b: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Transforms of half maps, divided by the root of their mean power by shell.

    Without it the steep fall of power within a band would let its longest waves speak for it.
    """
    shells = radius.round().long()
    power = (a.abs().square() + b.abs().square()).flatten()
    mean = torch.bincount(shells.flatten(), power) / torch.bincount(shells.flatten())
    scale = mean.clamp(min=torch.finfo(radius.dtype).tiny).rsqrt().to(radius.dtype)[shells]
    return a * scale, b * scale


def _local_correlation(spectra: tuple[Tensor, ...], radius: Tensor, frequency: float) -> Tensor:
    """Correlation of a band around every second voxel (N, N, N), raised by a part of its standard error.

    The band is sampled as finely as its own and the window's frequencies need; Gaussian weights of these
    samples at the voxels are the window and the change of grid in one.
    """
    size = len(radius)
    coarse = min(size, 2 * math.ceil(1.5 * frequency + 2.0))
    distance = _cropped(radius, coarse).log() - math.log(frequency)
    band = 0.5 + 0.5 * torch.cos(torch.pi * (distance.abs() / _HALF_WIDTH).clamp(max=1.0))
    half1, half2, mask = (_cropped(spectrum, coarse) for spectrum in spectra)
    a, b = (inverse_fourier_3d(half * band, coarse) for half in (half1, half2))
    weight = inverse_fourier_3d(mask, coarse).clamp(min=0.0)
    window = _window(size, coarse, _WINDOW * size / frequency).to(radius)
    cross, power_a, power_b = (_windowed(weight * x * y, window) for x, y in ((a, b), (a, a), (b, b)))
    norm = (power_a * power_b).sqrt()
    correlation = torch.where(norm > 0.0, cross / norm, 0.0)
    return correlation + _STANDARD_ERRORS / math.sqrt(_independent_values(band, window))


def _cropped(spectrum: Tensor, size: int) -> Tensor:
    """The low frequencies of a half-space transform, as on a coarser grid of the same extent."""
    low = torch.fft.fftfreq(size, 1.0 / size, device=spectrum.device).long()
    return spectrum[low][:, low][:, :, : size // 2 + 1]


def _places(number: int, spacing: float) -> Tensor:
    """Places in voxels from the centre of the box of points that are so many voxels apart."""
    return (torch.arange(number) - number // 2) * spacing


def _window(size: int, samples: int, width: float) -> Tensor:
    """Gaussian weights along an axis (N, M), of a standard deviation in voxels."""
    away = _places((size + 1) // 2, 2.0)[:, None] - _places(samples, size / samples)
    return torch.exp(-0.5 * (away / width).square())


def _interpolation(size: int) -> Tensor:
    """Weights (L, N) of linear interpolation along an axis from every second voxel to all."""
    away = _places(size, 1.0)[:, None] - _places((size + 1) // 2, 2.0)
    weights = (1.0 - 0.5 * away.abs()).clamp(min=0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def _windowed(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums along the three axes: values (M, M, M) to (N, N, N) by weights (N, M)."""
    new, old = weights.shape
    planes = weights @ (values @ weights.T)
    return (weights @ planes.reshape(old, -1)).reshape(new, new, new)


def _independent_values(band: Tensor, window: Tensor) -> float:
    """Independent real numbers among a band's values under the window around the central voxel.

    The equivalent number of terms of a weighted sum, (Σw)²/Σw², of the band's coefficients and the window.
    """
    power = band.square()
    coefficients = 2.0 * power.sum().square() / power.square().sum()
    centre = window[len(window) // 2]
    share = centre.sum().square() / centre.square().sum() / len(centre)
    return float(coefficients * share**3)
