"""Gold-standard Fourier shell correlation of two half maps, corrected for what a mask adds to it.

S. Chen et al., *High-resolution noise substitution to measure overfitting and validate resolution in 3D
structure determination by single particle electron cryomicroscopy*, Ultramicroscopy 135 (2013).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryograd.draws import Stream, generator
from cryograd.fourier import radius_grid
from cryograd.rotations import FloatArray
from cryograd.validation.fsc import fsc, resolution_at

# Correlation of the unmasked maps below which shells are replaced by noise.
_RANDOMISED_BELOW = 0.8
RESOLVED = 0.143
# Mean correlation that a mask alone may make in the shells that it adds. A mask that makes more also carries
# signal there from shells that agree in part, which random phases do not show.
_MASK_LIMIT = 0.15
# Standard error of a shell's correlation that is aimed at, random draws of phases and shells on either side
# that it is averaged over for that at most, and independent coefficients from which on it says so much.
_STANDARD_ERROR, _MOST_DRAWS, _NEIGHBOURS, _TELLING = 0.05, 8, 1, 25.0
# Standard errors by which shells differ that are not averaged.
_DIFFERS = 2.0
# Times the finest resolution that images were looked at to, below which the resolution is a bound.
_AT_LIMIT = 1.01


@dataclass(frozen=True)
class GoldStandard:
    """Correlations of two half maps, by shell 0 to L // 2, each of shape (L // 2 + 1,).

    Parameters
    ----------
    box
        Side L of the maps in voxels.
    pixel_size
        Å.
    unmasked, masked
        Of the maps as they are, and in the mask.
    randomised
        In the mask, of maps with random phases from shell ``randomised_from`` on: what the mask alone makes.
    corrected
        Of the maps in the mask, without what the mask makes; equal to ``masked`` below ``randomised_from``.
        Shells of few independent coefficients are averaged with their neighbours.
    randomised_from
        First shell with random phases; None where the unmasked maps agree to the last shell.
    finest
        Å of the finest resolution that images were looked at to: what lies beyond in the maps is none of
        theirs, and the mask carries some of what is resolved there.
    """

    box: int
    pixel_size: float
    unmasked: FloatArray
    masked: FloatArray
    randomised: FloatArray
    corrected: FloatArray
    randomised_from: int | None
    finest: float = 0.0

    @property
    def extent(self) -> float:
        """Side of the box in Å."""
        return self.box * self.pixel_size

    @property
    def mask_too_tight(self) -> bool:
        """Whether the mask makes up the shells that are resolved only in it, or costs resolved ones."""
        first, last = (_first_below(values) for values in (self.unmasked, self.corrected))
        if last <= first:
            return last < first
        return float(self.randomised[first:last].mean()) > _MASK_LIMIT

    @property
    def correlation(self) -> FloatArray:
        """Correlation to believe: the corrected one, or the unmasked one where the mask is too tight."""
        return self.unmasked if self.mask_too_tight else self.corrected

    def resolution(self, threshold: float = RESOLVED) -> float | None:
        """Resolution in Å at which `correlation` first falls below a threshold, at most the finest."""
        found = resolution_at(self.correlation, threshold, self.box, self.pixel_size)
        return None if found is None else max(found, self.finest)

    @property
    def is_bound(self) -> bool:
        """Whether the maps agree as finely as was looked, so that their resolution may be finer yet."""
        found = self.resolution()
        return found is not None and bool(found < _AT_LIMIT * max(self.finest, 2.0 * self.pixel_size))


def gold_standard(
    first: ArrayLike,
    second: ArrayLike,
    mask: ArrayLike,
    pixel_size: float,
    seed: int,
    finest: float = 0.0,
    order: int | None = None,
) -> GoldStandard:
    """Correlate two half maps unmasked, masked, masked with random phases, and corrected.

    A shell in the mask has signal s, noise n and what leaks into it from shells below, l. With random phases
    from the shell on, only l is common to the maps: F_n = l/(l + s + n). With F_t = (l + s)/(l + s + n),
    (F_t − F_n)/(1 − F_n) = s/(s + n).

    In a mask, the shells of a small or symmetric map have few independent coefficients, and their
    correlations errors of 0.1 and more: one draw of phases moves a resolution by a quarter. With the order of
    the point group they are averaged, over draws and over neighbouring shells.

    Parameters
    ----------
    first, second
        Unfiltered half maps of shape (L, L, L). What a mask did to them before is not corrected.
    mask
        Soft mask of the same shape.
    pixel_size
        Å.
    seed
        Of the random phases.
    finest
        Å of the finest resolution that images were looked at to.
    order
        Of the maps' point group; None for one draw, and every shell by itself.
    """
    halves = [np.asarray(half, dtype=np.float32) for half in (first, second)]
    mask = np.asarray(mask, dtype=np.float32)
    unmasked = fsc(*halves)[1]
    masked = fsc(*(half * mask for half in halves))[1]
    # The origin has no phase to randomise.
    low = np.flatnonzero(unmasked[1:] < _RANDOMISED_BELOW) + 1
    start = int(low[0]) if len(low) else None
    randomised, corrected = masked, masked
    if start is not None:
        shells = np.arange(len(masked))
        # Two real numbers of a coefficient are one of the maps' mask.
        free = 2.0 * np.pi * shells**2 * float(mask.mean()) / (order or 1)
        draws = 1 if order is None else int(np.clip(_STANDARD_ERROR**-2 / free[start], 1.0, _MOST_DRAWS))
        randomised = np.mean([_of_noise(halves, mask, start, seed, k) for k in range(draws)], axis=0)
        # Below it nothing was random, and what the mask adds is not known.
        corrected = np.where(shells >= start, _without_mask(masked, randomised), masked)
        if order is not None:
            corrected = np.where(shells >= start, _averaged(corrected, free), masked)
    return GoldStandard(len(mask), pixel_size, unmasked, masked, randomised, corrected, start, finest)


def _of_noise(
    halves: list[NDArray[np.float32]], mask: NDArray[np.float32], start: int, seed: int, draw: int
) -> FloatArray:
    """Correlation in the mask of two maps (L, L, L) with random phases from a shell on."""
    generators = (generator(seed, Stream.PHASES, 2 * draw + number) for number in range(2))
    noise = (randomise_phases(*pair) for pair in zip(halves, (start, start), generators, strict=True))
    return fsc(*(half * mask for half in noise))[1]


def _averaged(curve: FloatArray, free: FloatArray) -> FloatArray:
    """A curve whose shells, by their independent coefficients, are averaged with those on either side.

    So few that they say nothing are left: a shell without signal could not be told from their errors. So are
    shells beside one that differs by more than errors do: at the radius of a start a curve falls at once.
    """
    found = curve.copy()
    for shell in range(_NEIGHBOURS, len(curve) - _NEIGHBOURS):
        around = slice(shell - _NEIGHBOURS, shell + _NEIGHBOURS + 1)
        if not _TELLING <= free[shell] < _STANDARD_ERROR**-2 or curve[around].min() <= 0.0:
            continue
        errors = np.sqrt(1.0 / free[shell] + 1.0 / free[around])
        if (np.abs(curve[around] - curve[shell]) < _DIFFERS * errors).all():
            found[shell] = np.average(curve[around], weights=free[around])
    return found


def _first_below(correlation: FloatArray) -> int:
    """First shell that is not resolved."""
    below = np.flatnonzero(correlation[1:] < RESOLVED) + 1
    return int(below[0]) if len(below) else len(correlation)


def randomise_phases(
    density: NDArray[np.float32], start: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A real map (L, L, L) with the same amplitudes, whose phases are random from shell ``start`` on."""
    size = density.shape[0]
    spectrum = np.fft.rfftn(density)
    # The phases of a real map's transform have the symmetry that another real map needs.
    phases = np.fft.rfftn(rng.standard_normal(density.shape, dtype=np.float32))
    phases /= np.abs(phases)
    beyond = np.rint(radius_grid(size, 3).numpy()) >= start
    spectrum[beyond] = np.abs(spectrum[beyond]) * phases[beyond]
    return np.fft.irfftn(spectrum, s=density.shape, axes=(0, 1, 2)).astype(np.float32)


def _without_mask(masked: FloatArray, randomised: FloatArray) -> FloatArray:
    """(F_t − F_n)/(1 − F_n), kept within −1 and 1; 0 where random phases agree fully."""
    rest = 1.0 - randomised
    corrected = np.divide(masked - randomised, rest, out=np.zeros_like(masked), where=rest > 0.0)
    return np.clip(corrected, -1.0, 1.0)
