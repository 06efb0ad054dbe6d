"""Images held in memory: read, normalised and resampled once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryograd.data.hot_pixels import without_hot_pixels
from cryograd.data.optics import Optics
from cryograd.data.particles import BadImagesError, Particles
from cryograd.errors import CryogradError
from cryograd.fourier import resize_plane
from cryograd.images.resample import resample

# Images that are read, or brought to another sampling, at a time.
_CHUNK = 256
# No pixel of a real image is as many standard deviations of the background from its mean.
_LARGEST_CONTRAST = 1e4
# Standard deviations beyond which a pixel of the background is left out, as part of a bead or a neighbour: of
# normal noise that are 2 in 10⁹.
_BACKGROUND = 6.0
# Factor on the median power, and standard deviations of its logarithm, beyond which images show something
# else than particles in ice.
_STRONG, _BEYOND = 1.5, 8.0


@dataclass(frozen=True)
class HeldImages:
    """All images of some particles in memory, in half precision.

    Parameters
    ----------
    particles
        The metadata.
    values
        Normalised images at the working sampling, shape (n, W, W), float16.
    extent
        Side of the box in Å; the working pixel is ``extent / W``.
    diameter
        Particle diameter in Å.
    device
        Where minibatches are made.
    strange
        Whether an image has a power that no particle has, shape (n,).
    """

    particles: Particles
    values: np.ndarray
    extent: float
    diameter: float
    device: torch.device
    strange: NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Working box W in pixels."""
        return self.values.shape[-1]

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """Normalised images, shape (b, W, W)."""
        return self.values[indices]

    def expect(self, indices: np.ndarray) -> None:
        """Nothing has to be fetched."""

    def cropped(self, indices: np.ndarray, size: int) -> "HeldImages":
        """Some of the images at a coarser sampling, which take less memory and time.

        Parameters
        ----------
        indices
            Particles, shape (b,).
        size
            The box W' in pixels, at most W.
        """
        values = np.empty((len(indices), size, size), dtype=np.float16)
        for start in range(0, len(indices), _CHUNK):
            part = slice(start, start + _CHUNK)
            values[part] = resize_plane(torch.from_numpy(self.values[indices[part]]).float(), size).numpy()
        some = self.particles.select(indices), values, self.extent, self.diameter, self.device
        return HeldImages(*some, self.strange[indices])


def read_images(
    particles: Particles,
    size: int,
    extent: float,
    diameter: float,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> HeldImages:
    """Read all images, replace their hot pixels, normalise and resample them.

    Parameters
    ----------
    particles
        What to read.
    size
        Working box W in pixels.
    extent
        Side of the working box in Å.
    diameter
        Particle diameter in Å, outside which is background.
    device
        Where minibatches will be made.
    progress
        Called with the number of images read and the number of all.

    Raises
    ------
    CryogradError
        Images are premultiplied by their CTF, cannot be read, or hold bad values.
    """
    for optics in particles.optics:
        _refuse_premultiplied(optics, particles.source)
    values = np.empty((len(particles), size, size), dtype=np.float16)
    faults: dict[int, str] = {}
    power, done = np.ones(len(particles)), 0
    for number, optics in enumerate(particles.optics):
        members = np.flatnonzero(particles.optics_index == number)
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            images, kept, bad = particles.usable_images(chunk)
            raw = normalise(without_hot_pixels(images), 0.5 * diameter / optics.pixel_size)
            # All others are looked at too: who repairs a file wants to know all at once.
            faults |= bad | _without_noise(raw, kept)
            if not faults:
                power[chunk] = np.square(raw).mean(axis=(1, 2))
                values[chunk] = resample(raw, optics, size, extent)
            done += len(chunk)
            if progress is not None:
                progress(done, len(particles))
    if faults:
        raise BadImagesError(particles, dict(sorted(faults.items())))
    return HeldImages(particles, values, extent, diameter, device, strange(power))


def strange(power: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of some images (n,) show a bead or dirt, by their mean squares in units of the background's."""
    above = np.log(power) - np.median(np.log(power))
    # Of a normal distribution the median deviation is 0.6745 σ.
    width = float(np.median(np.abs(above))) / 0.6745
    return above > max(np.log(_STRONG), _BEYOND * width)


def normalise(images: np.ndarray, radius: float) -> np.ndarray:
    """Subtract the plane of the background outside a circle, and divide by its standard deviation.

    Of the deviation, though not of the plane, pixels are left out that are many of them off, as of a bead.

    Parameters
    ----------
    images
        Shape (n, L, L).
    radius
        Radius of the circle in pixels; where it leaves less than 5 % of the image, the corners are used.

    Returns
    -------
    np.ndarray
        Infinite or NaN where the background does not vary.
    """
    size = images.shape[-1]
    axis = np.arange(size) - size // 2
    distance = np.hypot(*np.meshgrid(axis, axis))
    background = distance > min(radius, float(np.quantile(distance, 0.95)))
    basis = np.stack([np.ones(distance.shape), *np.meshgrid(axis / size, axis / size)])
    # A plane that is fitted to the background goes on below the particle.
    planes = images[:, background] @ np.linalg.pinv(basis[:, background])
    flat = images - np.tensordot(planes, basis, axes=1).astype(images.dtype)
    values = flat[:, background]
    limit = _BACKGROUND / 0.6745 * np.median(np.abs(values), axis=1, keepdims=True)
    # Where half of the background or more is constant all of it counts.
    within = (np.abs(values) < limit) | (limit == 0.0)
    std = values.std(axis=1, where=within)
    with np.errstate(divide="ignore", invalid="ignore"):
        return flat / std[:, None, None]


def _refuse_premultiplied(optics: Optics, source: Path) -> None:
    """Refuse images whose noise is no longer the same at all frequencies of a shell."""
    if optics.premultiplied:
        raise CryogradError(
            f"the images of optics group {optics.name} are premultiplied by their CTF",
            source,
            "extract them again without premultiplication",
        )


def _without_noise(images: np.ndarray, indices: np.ndarray) -> dict[int, str]:
    """What is wrong with images in units of whose background the particle would be off every scale."""
    what = (
        "the image has no noise outside the particle (give images that are not masked, or a smaller "
        "--particle-diameter if the mask is wider than the particle)"
    )
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(images).max(axis=(1, 2)) < _LARGEST_CONTRAST)
    return dict.fromkeys(indices[bad].tolist(), what)
