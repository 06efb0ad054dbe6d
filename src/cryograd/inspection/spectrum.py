"""Does the CTF fit the images: Thon rings of averaged power spectra against CTF².

Images of similar defocus are averaged. Of the logarithm of their power by radius, and of CTF², a smooth trend
is taken away, which leaves the rings; and then the mean over all defocus values, which leaves how the rings
move with the defocus. Without the second step a molecule's own spectrum is mistaken for rings. Wrong defocus
values show as rings that do not correlate, and a factor on the defocus under which they do tells how they are
wrong.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cryograd.data.optics import Optics
from cryograd.data.particles import Particles
from cryograd.inspection.sample import Sample
from cryograd.model.ctf import ctf
from cryograd.rotations import FloatArray

_LEAST_IMAGES, _BIN_IMAGES = 20, 30
# Rings are seen where two halves of the images correlate more than this, and than so many standard errors of
# the correlation of noise; and where what is expected differs by this much from bin to bin, as a root mean
# square: images of one defocus do not tell rings from the molecule's own spectrum.
_VISIBLE, _SIGNIFICANT, _MOVES = 0.5, 3.0, 0.02
_MAX_BINS = 40
# CTFs that stand for a bin, and points that stand for a shell along the radius and the azimuth.
_BIN_CTFS = 10
_RADIAL_POINTS, _AZIMUTHS = 3, 8
_TREND_DEGREE = 4
_LOWEST_RESOLUTION = 40.0
_FACTORS, _NEAR = np.geomspace(0.2, 5.0, 65), np.geomspace(0.9, 1.0 / 0.9, 11)
# With fewer there is nothing beside the trend.
_FEWEST_RADII = 3
# Correlation from which on no other factor on the defocus could fit clearly better: they are not tried.
_FITS = 0.7


@dataclass(frozen=True)
class Rings:
    """Measured and expected rings of one kind of optics.

    Parameters
    ----------
    frequency
        1/Å, shape (k,).
    measured
        Logarithm of the power without its trend, a row a defocus bin, shape (bins, k).
    expected
        CTF² without its trend, shape (bins, k).
    defocus
        Mean defocus of each bin in Å, shape (bins,).
    facts
        JSON-able: ``visible`` says whether anything can be said of the CTF, ``agreement`` is the correlation
        of how measured and expected rings move with the defocus, ``reliability`` that of the measured ones in
        two halves of the images, ``best_factor`` the factor on the defocus that fits best and
        ``best_agreement`` its correlation; where the CTF fits well, no other is tried.
    """

    frequency: FloatArray
    measured: FloatArray
    expected: FloatArray
    defocus: FloatArray
    facts: dict[str, Any]


def thon_rings(particles: Particles, sample: Sample) -> list[Rings]:
    """Compare spectra with CTFs for every kind of optics that has enough images.

    Parameters
    ----------
    particles
        Particles with images.
    sample
        Those of them that were measured.
    """
    kinds: dict[tuple[float, ...], list[int]] = {}
    for number, optics in enumerate(particles.optics):
        kinds.setdefault(_kind(optics), []).append(number)
    found = []
    for numbers in kinds.values():
        here = np.isin(particles.optics_index[sample.members], numbers)
        optics = particles.optics[numbers[0]]
        radii = _radii(optics)
        if np.count_nonzero(here) >= _LEAST_IMAGES and len(radii) >= _FEWEST_RADII:
            power = sample.power[here][:, radii]
            found.append(_rings(particles, optics, sample.members[here], power, radii))
    return found


def _radii(optics: Optics) -> np.ndarray:
    """Fourier pixels at which rings are looked for; none where the pixels are too large for that."""
    extent = optics.box_size * optics.pixel_size
    return np.arange(max(3, int(np.ceil(extent / _LOWEST_RESOLUTION))), optics.box_size // 2)


def _kind(optics: Optics) -> tuple[float, ...]:
    """What optics groups must share for their images to be averaged."""
    return (
        optics.box_size,
        optics.pixel_size,
        optics.wavelength,
        optics.spherical_aberration,
        optics.amplitude_contrast,
        *optics.even_zernike,
        *(m for row in optics.magnification for m in row),
    )


def _rings(
    particles: Particles, optics: Optics, members: np.ndarray, power: FloatArray, radii: np.ndarray
) -> Rings:
    """Rings of images (m,) that share their optics, from their power (m, k) at radii (k,) in pixels."""
    extent = optics.box_size * optics.pixel_size
    defocus = 0.5 * (particles.defocus_u + particles.defocus_v)[members]
    order = np.argsort(defocus, kind="stable")
    members, power = members[order], power[order]
    n_bins = int(np.clip(len(members) // _BIN_IMAGES, 2, _MAX_BINS))
    bins = np.arange(len(members)) * n_bins // len(members)
    measured = _without_trend(np.log(_bin_means(power, bins)))
    halves = [_without_trend(np.log(_bin_means(power[half::2], bins[half::2]))) for half in (0, 1)]
    standing = np.concatenate(
        [np.flatnonzero(bins == b)[:: -(-_BIN_IMAGES // _BIN_CTFS)] for b in range(n_bins)]
    )

    def expected(factor: float) -> FloatArray:
        squares = _squared_ctf(particles, optics, members[standing], radii / extent, factor)
        return _without_trend(_bin_means(squares, bins[standing]))

    reliability, right = _correlation(*halves), expected(1.0)
    agreement = _correlation(measured, right)
    factors = _FACTORS if agreement < _FITS else _NEAR
    scan = [_correlation(measured, expected(factor)) for factor in factors]
    free = (n_bins - 1) * max(1, len(radii) - _TREND_DEGREE - 1)
    moves = float((right - right.mean(axis=0)).std())
    facts = {
        "images": len(members),
        "visible": bool(reliability > max(_VISIBLE, _SIGNIFICANT / np.sqrt(free)) and moves > _MOVES),
        "agreement": agreement,
        "reliability": reliability,
        "best_factor": float(factors[int(np.argmax(scan))]),
        "best_agreement": float(np.max(scan)),
    }
    mean_defocus = _bin_means(np.sort(defocus)[:, None], bins)[:, 0]
    return Rings(radii / extent, measured, right, mean_defocus, facts)


def _squared_ctf(
    particles: Particles, optics: Optics, members: np.ndarray, frequency: FloatArray, factor: float
) -> FloatArray:
    """CTF² averaged over each shell, shape (n, k), with the defocus multiplied by a factor."""
    azimuth = np.arange(_AZIMUTHS) * (np.pi / _AZIMUTHS)
    directions = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    steps = ((np.arange(_RADIAL_POINTS) + 0.5) / _RADIAL_POINTS - 0.5) * (frequency[1] - frequency[0])
    radius = (frequency[:, None] + steps).reshape(-1)
    # The rings are those of the images as they are, the CTF is that at the true frequencies.
    k = torch.as_tensor(
        (radius[:, None, None] * directions).reshape(-1, 2) @ np.transpose(optics.magnification)
    )

    def column(values: FloatArray) -> torch.Tensor:
        return torch.as_tensor(values[members])

    value = ctf(
        k,
        optics.wavelength,
        optics.spherical_aberration,
        optics.amplitude_contrast,
        column(factor * particles.defocus_u),
        column(factor * particles.defocus_v),
        column(particles.astigmatism_angle),
        column(particles.phase_shift),
        column(np.zeros(len(particles))),
        column(np.ones(len(particles))),
        even_zernike=optics.even_zernike,
    )
    return value.double().square().numpy().reshape(len(members), len(frequency), -1).mean(axis=2)


def _bin_means(values: FloatArray, bins: np.ndarray) -> FloatArray:
    """Mean of the rows of each bin."""
    return np.stack([values[bins == b].mean(axis=0) for b in range(bins.max() + 1)])


def _without_trend(curves: FloatArray) -> FloatArray:
    """Rows less the polynomial that fits each best."""
    x = np.linspace(-1.0, 1.0, curves.shape[1])
    degree = min(_TREND_DEGREE, curves.shape[1] - 2)
    basis, _ = np.linalg.qr(np.polynomial.chebyshev.chebvander(x, degree))
    return curves - curves @ basis @ basis.T


def _correlation(a: FloatArray, b: FloatArray) -> float:
    """Correlation of all rows together, after taking away the mean row of each."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / norm) if norm > 0.0 else 0.0
