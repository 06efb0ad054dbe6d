"""A random sample of images, each read once, and what is measured of every single one of them."""

from dataclasses import dataclass

import numpy as np

from cryograd.data.hot_pixels import without_hot_pixels
from cryograd.data.particles import Particles
from cryograd.draws import Stream, generator
from cryograd.rotations import FloatArray

_IMAGES = 2000
_CHUNK = 256
# Fractions of the box: within the first the particle is, beyond the second it is not.
_INNER, _OUTER = 0.25, 0.45


@dataclass(frozen=True)
class Sample:
    """Images that were looked at.

    Parameters
    ----------
    members
        Which particles' images these are, in ascending order, shape (m,).
    power
        Power of each by radius in Fourier pixels of its own box, NaN beyond, shape (m, largest box // 2).
    brightness
        What `brightness` says of each, shape (m, 4).
    """

    members: np.ndarray
    power: FloatArray
    brightness: FloatArray

    def within(self, chosen: np.ndarray) -> "Sample":
        """The part of a sample that is among some particles, as a sample of these.

        Parameters
        ----------
        chosen
            Particles in ascending order, shape (n,); the new members are places among them.
        """
        here = np.isin(self.members, chosen)
        members = np.searchsorted(chosen, self.members[here])
        return Sample(members, self.power[here], self.brightness[here])


def sampled(particles: Particles, good: np.ndarray | None = None, seed: int = 0) -> Sample:
    """Read and measure a random sample; images that cannot be used are left out.

    Parameters
    ----------
    particles
        Particles with images.
    good
        Which of them may be chosen, shape (n,); None for all.
    seed
        Of the choice.
    """
    from_these = np.arange(len(particles)) if good is None else np.flatnonzero(good)
    chosen = np.sort(generator(seed, Stream.SAMPLE).permutation(from_these)[:_IMAGES])
    boxes = np.array([optics.box_size for optics in particles.optics])[particles.optics_index[chosen]]
    longest = max(optics.box_size for optics in particles.optics) // 2
    members, power, bright = [np.zeros(0, int)], [np.zeros((0, longest))], [np.zeros((0, 4))]
    for box in np.unique(boxes):
        same = chosen[boxes == box]
        for chunk in np.array_split(same, -(-len(same) // _CHUNK)):
            read, kept, _ = particles.usable_images(chunk)
            images = without_hot_pixels(read).astype(np.float64)
            rows = np.full((len(kept), longest), np.nan)
            rows[:, : box // 2] = radial_power(images)
            members.append(kept)
            power.append(rows)
            bright.append(brightness(images))
    order = np.argsort(np.concatenate(members), kind="stable")
    return Sample(*(np.concatenate(parts)[order] for parts in (members, power, bright)))


def distance(size: int) -> FloatArray:
    """Distance of each pixel from the centre, in pixels, shape (size, size)."""
    axis = np.arange(size) - float(size // 2)
    return np.hypot(*np.meshgrid(axis, axis))


def brightness(images: FloatArray) -> FloatArray:
    """Background mean, background σ, inner mean minus outer, and inner variance over outer, shape (b, 4).

    The last two are in units of the background's σ and of its variance.
    """
    radius = distance(images.shape[-1]) / images.shape[-1]
    inner, outer = images[:, radius < _INNER], images[:, radius > _OUTER]
    mean, std = outer.mean(axis=1), np.maximum(outer.std(axis=1), 1e-12)
    return np.stack(
        [mean, std, (inner.mean(axis=1) - mean) / std, inner.var(axis=1) / std**2],
        axis=1,
    )


def radial_power(images: FloatArray) -> FloatArray:
    """Rotationally averaged power spectra of images (b, L, L), shape (b, L // 2)."""
    size = images.shape[-1]
    # Without a taper the jump at the borders leaks over all frequencies.
    taper = np.cos(0.5 * np.pi * np.clip((distance(size) / size - 0.35) / 0.15, 0.0, 1.0)) ** 2
    images = images - images.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(images * taper)) ** 2
    k = np.fft.fftfreq(size, 1.0 / size)
    shells = np.rint(np.hypot(*np.meshgrid(k, k))).astype(np.int64).ravel()
    counts = np.bincount(shells)[: size // 2]
    return np.stack([np.bincount(shells, p.ravel())[: size // 2] / counts for p in power])
