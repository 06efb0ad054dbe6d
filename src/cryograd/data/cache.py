"""Particle images at the working sampling: normalised once, masked and transformed a minibatch at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryograd.data.optics import Optics
from cryograd.data.particles import Particles
from cryograd.data.resample import resample
from cryograd.errors import CryogradError
from cryograd.fourier import HalfDisc, fourier_2d, pack_disc
from cryograd.model.ctf import ctf

_CHUNK = 256
_UNDERFOCUS = ("defocus_u", "defocus_v")
_OTHERS = ("astigmatism_angle", "phase_shift", "b_factor", "scale")
# No pixel of a real image is as many standard deviations of the background from its mean.
_LARGEST_CONTRAST = 1e4
# Width in working pixels of the soft edge of the mask around a particle.
MASK_EDGE = 5.0
# Images whose transforms are made at a time.
_LOADED = 100


@dataclass(frozen=True)
class Loaded:
    """Images of a minibatch before whitening.

    Parameters
    ----------
    images
        Fourier coefficients, shape (B, K), complex64.
    ctf
        Contrast transfer function, shape (B, K), float32.
    group
        Optics group of each image, shape (B,).
    area
        Fraction of the box inside each image's mask, shape (B,): what is left of the noise's power.
    """

    images: Tensor
    ctf: Tensor
    group: Tensor
    area: Tensor


@dataclass(frozen=True)
class ImageCache:
    """All images, normalised and cropped in Fourier space to the working box.

    Parameters
    ----------
    particles
        The metadata.
    images
        Normalised images at the working sampling, shape (n, W, W), float16.
    extent
        Side of the box in Å; the working pixel is ``extent / W``.
    diameter
        Particle diameter in Å.
    device
        Where minibatches are made.
    """

    particles: Particles
    images: np.ndarray
    extent: float
    diameter: float
    device: torch.device

    @property
    def size(self) -> int:
        """Working box W in pixels."""
        return self.images.shape[-1]

    def load(
        self,
        indices: np.ndarray,
        disc: HalfDisc,
        centres: np.ndarray,
        margins: np.ndarray,
        defocus_change: np.ndarray | float = 0.0,
    ) -> Loaded:
        """Images masked around their particles, and their CTFs, on a half-disc.

        Parameters
        ----------
        indices
            Particles, shape (B,).
        disc
            Coefficients wanted.
        centres
            Current origin offsets (x, y) in Å, shape (B, 2): the mask is centred at minus this.
        margins
            Å by which each mask is wider than the particle, shape (B,); infinite for no mask.
        defocus_change
            Å by which the underfocus is more than the particles say, shape (B,).
        """
        frequencies = torch.as_tensor(disc.frequencies / self.extent, device=self.device)
        change = np.broadcast_to(defocus_change, len(indices))
        coefficients = torch.empty(len(indices), len(disc), dtype=torch.complex64, device=self.device)
        ctf = torch.empty(len(indices), len(disc), device=self.device)
        area = torch.empty(len(indices), device=self.device)
        # Whole images take several times the memory of their coefficients.
        for start in range(0, len(indices), _LOADED):
            part = slice(start, start + _LOADED)
            mask = self._masks(centres[part], margins[part])
            images = torch.as_tensor(self.images[indices[part]]).to(self.device).float() * mask
            coefficients[part] = pack_disc(fourier_2d(images), disc)
            ctf[part] = ctf_of(self.particles, indices[part], frequencies, change[part])
            area[part] = mask.square().mean(dim=(1, 2)).clamp(min=1e-3)
        group = torch.as_tensor(self.particles.optics_index[indices], device=self.device)
        return Loaded(coefficients, ctf, group, area)

    def _masks(self, centres: np.ndarray, margins: np.ndarray) -> Tensor:
        pixel = self.extent / self.size
        axis = torch.arange(self.size, device=self.device) - self.size // 2
        centre = torch.as_tensor(-centres / pixel, dtype=torch.float32, device=self.device)
        radius = torch.as_tensor(
            (self.diameter / 2 + margins) / pixel, dtype=torch.float32, device=self.device
        )
        dx, dy = axis - centre[:, :1], axis - centre[:, 1:]
        distance = torch.sqrt(dx[:, None, :].square() + dy[:, :, None].square())
        edge = ((distance - radius[:, None, None]) / MASK_EDGE).clamp(0.0, 1.0)
        return 0.5 + 0.5 * torch.cos(torch.pi * edge)


def ctf_of(
    particles: Particles,
    indices: np.ndarray,
    frequencies: Tensor,
    defocus_change: np.ndarray | float = 0.0,
) -> Tensor:
    """CTFs (b, K) of some particles at frequencies (kx, ky) in 1/Å, shape (K, 2).

    ``defocus_change`` is added to both underfocus values: Å, shape (b,).
    """
    change = np.broadcast_to(defocus_change, len(indices))
    device = frequencies.device
    out = torch.empty(len(indices), len(frequencies), device=device)
    groups = particles.optics_index[indices]
    for number in np.unique(groups):
        here = np.flatnonzero(groups == number)
        optics = particles.optics[number]
        underfocus = (getattr(particles, name)[indices[here]] + change[here] for name in _UNDERFOCUS)
        others = (getattr(particles, name)[indices[here]] for name in _OTHERS)
        values = (torch.as_tensor(value, device=device) for value in (*underfocus, *others))
        group_ctf = ctf(
            frequencies,
            optics.wavelength,
            optics.spherical_aberration,
            optics.amplitude_contrast,
            *values,
            even_zernike=optics.even_zernike,
        )
        out[torch.as_tensor(here, device=device)] = group_ctf.abs() if optics.phase_flipped else group_ctf
    return out


def delocalisation(
    particles: Particles, indices: np.ndarray, frequency: float, defocus_change: np.ndarray
) -> np.ndarray:
    """Å by which defocus moves signal of a frequency in 1/Å away from its origin in some images, (b,).

    The gradient of the CTF's phase over 2π: λ Δf k − Cs λ³ k³, Δf the mean underfocus with Å added, (b,).
    """
    mean = 0.5 * (particles.defocus_u + particles.defocus_v)[indices] + defocus_change
    groups = particles.optics_index[indices]
    wavelength = np.array([optics.wavelength for optics in particles.optics])[groups]
    aberration = np.array([optics.spherical_aberration for optics in particles.optics])[groups]
    return np.abs(wavelength * mean * frequency - aberration * (wavelength * frequency) ** 3)


def normalise(images: np.ndarray, radius: float) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation of the background outside a circle.

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
    values = images[:, background]
    mean, std = values.mean(axis=1), values.std(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (images - mean[:, None, None]) / std[:, None, None]


def _refuse_premultiplied(optics: Optics, source: Path) -> None:
    """Refuse images whose noise is no longer the same at all frequencies of a shell."""
    if optics.premultiplied:
        raise CryogradError(
            f"the images of optics group {optics.name} are premultiplied by their CTF",
            source,
            "extract them again without premultiplication",
        )


def _refuse_without_noise(images: np.ndarray, particles: Particles, indices: np.ndarray) -> None:
    """Refuse images in units of whose background the particle would be off every scale."""
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.abs(images).max(axis=(1, 2)) < _LARGEST_CONTRAST))
    if bad.size:
        i = indices[bad[0]]
        raise CryogradError(
            "an image has no noise outside the particle: it was masked, or is free of noise",
            f"image {particles.image_index[i] + 1} of {particles.stacks[particles.stack_index[i]]}",
            "give unmasked images, or a smaller --particle-diameter if the mask is wider than the particle",
        )


def build_cache(
    particles: Particles,
    size: int,
    extent: float,
    diameter: float,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Read, normalise and resample all images.

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
    images = np.empty((len(particles), size, size), dtype=np.float16)
    done = 0
    for number, optics in enumerate(particles.optics):
        members = np.flatnonzero(particles.optics_index == number)
        for start in range(0, len(members), _CHUNK):
            chunk = members[start : start + _CHUNK]
            raw = normalise(particles.images(chunk), 0.5 * diameter / optics.pixel_size)
            _refuse_without_noise(raw, particles, chunk)
            images[chunk] = resample(raw, optics, size, extent)
            done += len(chunk)
            if progress is not None:
                progress(done, len(particles))
    return ImageCache(particles, images, extent, diameter, device)
