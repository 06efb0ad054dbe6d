"""Images that share their noise, told by their pixels: for files that do not say where particles were picked.

Noise is what no two images have in common, and at high frequencies there is hardly anything else. There, two
distinct images of 64 pixels correlate by 0.04 in the root mean square, whatever they show; of the 2,374 picks
of EMPIAR-10204 no pair of 20,000 passed 0.43, nor any of those that look most alike 0.22. A copy has 1,
whatever its contrast was multiplied by. An image that was extracted a few pixels beside another nearly does:
0.99 for 1 pixel, and above 0.9 for 5. The moduli of Fourier coefficients do not depend on where an image is.
They are its fingerprint, by which each image finds the earlier one that is most like it; only these pairs are
correlated.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cryograd.data.hot_pixels import without_hot_pixels
from cryograd.data.particles import IntArray, Particles
from cryograd.data.shared_noise import APART
from cryograd.draws import Stream, generator
from cryograd.rotations import FloatArray

# Correlation beyond which the noise of two images is the same.
SHARED = 0.7
# Frequencies that are looked at, as shares of Nyquist's: where there is little but noise.
_BAND = (0.25, 0.95)
# Side in pixels below which images have too few coefficients there: chance alone would make some correlate.
_SMALLEST = 32
# Coefficients of a fingerprint, and the similarity of two beyond which images are correlated. Of distinct
# images it is 0.1 in the mean square, of picks that lie 5 of 48 pixels apart 0.8.
_MODULI, _ALIKE = 96, 0.6
# Fingerprints that are compared, and images that are read, at a time.
_BLOCK, _CHUNK = 2048, 256
# Samples in the place of one, so that the best shift is not missed between two.
_FINER = 2


class NoiseCopies:
    """Search for images that share their noise, which is shown all images, some at a time.

    The time is that of a transform of each image, and of as many products as there are pairs: 100,000 images
    take about a minute on one core.

    Parameters
    ----------
    particles
        The particles.
    """

    def __init__(self, particles: Particles) -> None:
        self._particles = particles
        self._seen: dict[int, list[tuple[IntArray, NDArray[np.float16]]]] = {}

    def add(self, indices: IntArray, images: NDArray[np.floating]) -> None:
        """Look at images (b, L, L), without hot pixels, of the particles that the indices (b,) name."""
        if images.shape[-1] >= _SMALLEST and len(images):
            self._seen.setdefault(images.shape[-1], []).append((indices, _fingerprints(images)))

    def pairs(self) -> IntArray:
        """Pairs (m, 2) of particles whose images share their noise, the earlier one first.

        Of several that all share it, each later one is in a pair with one earlier one.
        """
        found = [np.zeros((0, 2), dtype=np.int64)]
        for seen in self._seen.values():
            indices, marks = (np.concatenate(parts) for parts in zip(*seen, strict=True))
            order = np.argsort(indices, kind="stable")
            found.append(self._confirmed(indices[order][_candidates(marks[order])]))
        return np.concatenate(found)

    def _confirmed(self, pairs: IntArray) -> IntArray:
        """Those of some pairs whose images correlate."""
        shared = np.zeros(len(pairs), dtype=bool)
        pixel_size = np.array([group.pixel_size for group in self._particles.optics])
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            first, second = (without_hot_pixels(self._particles.images(side)) for side in chunk.T)
            reach = APART / pixel_size[self._particles.optics_index[chunk[:, 0]]]
            shared[start : start + _CHUNK] = noise_correlation(first, second, reach) > SHARED
        return pairs[shared]


def noise_copies(particles: Particles, progress: Callable[[int, int], None] | None = None) -> IntArray:
    """Pairs (m, 2) of particles whose images share their noise, as `NoiseCopies` finds them.

    Parameters
    ----------
    particles
        Particles with images, all of which are read; those that cannot be used are in no pair.
    progress
        Called with the number of images read and the number of all.
    """
    search = NoiseCopies(particles)
    for done, chunk in particles.in_chunks(_CHUNK):
        images, kept, _ = particles.usable_images(chunk)
        search.add(kept, without_hot_pixels(images))
        if progress is not None:
            progress(done, len(particles))
    return search.pairs()


def noise_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating], reach: FloatArray
) -> FloatArray:
    """Largest correlation of images at high frequencies, either sign, over the shifts between two of them.

    Parameters
    ----------
    first, second
        Images (b, L, L).
    reach
        Largest shift in pixels, shape (b,); one pixel is allowed in any case.
    """
    size, box = first.shape[-1], _FINER * first.shape[-1]
    one, other = _whitened(first), _whitened(second)
    product = np.fft.fftshift(one * other.conj(), axes=1)
    finer = np.zeros((len(product), box, box // 2 + 1), dtype=product.dtype)
    finer[:, (box - size) // 2 : (box + size) // 2, : product.shape[2]] = product
    correlation = np.abs(np.fft.irfft2(np.fft.ifftshift(finer, axes=1), s=(box, box)))
    # What the transform of the images' own products is at no shift.
    norm = np.sqrt(_energy(one) * _energy(other)) / box**2
    axis = np.fft.fftfreq(box, 1.0 / size)
    allowed = np.hypot(*np.meshgrid(axis, axis)) <= np.maximum(reach, 1.0)[:, None, None]
    return np.where(allowed, correlation, 0.0).max(axis=(1, 2)) / np.maximum(norm, np.finfo(float).tiny)


def _energy(transforms: NDArray[np.complexfloating]) -> FloatArray:
    """Sum of the squares over whole transforms of which the half with kx ≥ 0 is given; Nyquist's is empty."""
    squares = np.abs(transforms) ** 2
    return 2.0 * squares.sum(axis=(1, 2)) - squares[:, :, 0].sum(axis=1)


def _fingerprints(images: NDArray[np.floating]) -> NDArray[np.float16]:
    """Moduli of some coefficients of images (b, L, L), as unit vectors (b, D).

    A modulus of noise is exponential in its square; it becomes its rank among all that it could be. Those of
    distinct images are random.
    """
    transforms = _whitened(images).reshape(len(images), -1)[:, _chosen(images.shape[-1])]
    ranks = 0.5 - np.exp(-(np.abs(transforms) ** 2))
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return (ranks / np.maximum(length, 1e-12)).astype(np.float16)


def _candidates(marks: NDArray[np.float16]) -> IntArray:
    """Places (m, 2) of fingerprints (n, D) that are alike: each with the earlier one that is most like it."""
    best = np.full(len(marks), -1.0, dtype=np.float32)
    partner = np.zeros(len(marks), dtype=np.int64)
    for start in range(0, len(marks), _BLOCK):
        rows = slice(start, start + _BLOCK)
        later = marks[rows].astype(np.float32)
        for first in range(0, start + 1, _BLOCK):
            alike = later @ marks[first : first + _BLOCK].astype(np.float32).T
            if first == start:
                alike[np.triu_indices(len(alike))] = -1.0
            place = alike.argmax(axis=1)
            value = alike[np.arange(len(alike)), place]
            better = value > best[rows]
            best[rows] = np.where(better, value, best[rows])
            partner[rows] = np.where(better, first + place, partner[rows])
    found = np.flatnonzero(best > _ALIKE)
    return np.stack([partner[found], found], axis=1)


def _whitened(images: NDArray[np.floating]) -> NDArray[np.complexfloating]:
    """Transforms (b, L, L // 2 + 1) of images that fade outwards: the band, with mean square 1 by shell."""
    window, shells, band = _geometry(images.shape[-1])
    transforms = np.fft.rfft2((images - images.mean(axis=(1, 2), keepdims=True)) * window)
    squares = (np.abs(transforms) ** 2).reshape(len(images), -1)
    mean = np.stack([np.bincount(shells.ravel(), one) for one in squares]) / np.bincount(shells.ravel())
    return transforms * (band / np.sqrt(np.maximum(mean, np.finfo(float).tiny))[:, shells])


@lru_cache(maxsize=8)
def _geometry(size: int) -> tuple[FloatArray, IntArray, NDArray[np.bool_]]:
    """Window (L, L) that fades outwards, shell of each coefficient (L, L // 2 + 1), and those in the band."""
    fade = np.hanning(size + 2)[1:-1]
    share = 2.0 * np.hypot(*np.meshgrid(np.fft.rfftfreq(size), np.fft.fftfreq(size)))
    shells = np.rint(0.5 * size * share).astype(np.int64)
    return np.outer(fade, fade), shells, (share > _BAND[0]) & (share < _BAND[1])


@lru_cache(maxsize=8)
def _chosen(size: int) -> IntArray:
    """Places of the coefficients of a fingerprint in a transform that is laid out flat."""
    band = _geometry(size)[2].copy()
    # Of those with kx = 0 each is there with its conjugate.
    band[:, 0] = False
    places = np.flatnonzero(band)
    return np.sort(generator(0, Stream.FINGERPRINT, size).choice(places, _MODULI, replace=False))
