"""The box that a run works in: its sampling, mask and lengths, and how maps get into it and out of it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryograd.config import ParticleRun
from cryograd.data.density import resample_map
from cryograd.data.particles import Particles
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.fourier import lowpass_volume, resize_transform
from cryograd.images.store import ImageStore
from cryograd.maps import Map
from cryograd.model.noise import Noise, noise_from_corners
from cryograd.model.symmetry import Symmetrizer
from cryograd.validation.fsc import soft_sphere

# Radius in Fourier pixels at which large particles start, which 40 Å would show too much of.
COARSEST_RADIUS = 6.0
# Images from which the noise is first estimated.
_NOISE_SAMPLE = 2000


@dataclass(frozen=True)
class Frame:
    """Where a run looks for the particle.

    Parameters
    ----------
    mask
        Solvent mask (W, W, W).
    radius
        Of the particle in voxels.
    max_shift
        Å.
    """

    mask: Tensor
    radius: float
    max_shift: float

    @staticmethod
    def of(images: ImageStore, config: ParticleRun) -> "Frame":
        """The frame of images at their sampling."""
        size, extent = images.size, images.extent
        radius = 0.5 * images.diameter / extent * size
        mask = solvent_mask(config, size, extent, radius).to(images.device)
        return Frame(mask, radius, 0.2 * extent if config.max_shift is None else config.max_shift)


def particle_diameter(particles: Particles, config: ParticleRun) -> float:
    """Å, as asked for or by default; lengths that do not fit the box are refused here."""
    _refuse_lengths(config, particles.extent, particles.extent / max(o.box_size for o in particles.optics))
    return config.particle_diameter or 0.9 * particles.extent


def chosen_device(name: str) -> torch.device:
    """The device that an option names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise CryogradError("there is no CUDA device", "--device cuda", "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def start_resolution(extent: float, config: ParticleRun) -> float:
    """Resolution in Å at which the march starts."""
    return config.start_resolution or max(40.0, extent / COARSEST_RADIUS)


def final_radius(particles: Particles, config: ParticleRun, default: float, most: float) -> float:
    """The last radius in Fourier pixels: what is asked for, or the default, but not more than ``most``."""
    extent, nyquist = particles.extent, particles.nyquist
    asked = config.max_resolution
    if asked is not None and asked < nyquist:
        raise CryogradError(
            f"--max-resolution {asked:g} Å is finer than the images' Nyquist limit",
            config.particles,
            f"give {nyquist:.2f} Å or more",
        )
    finest = min(default if asked is None else extent / asked, most)
    start = start_resolution(extent, config)
    if finest < extent / start:
        raise CryogradError(
            f"the start resolution, {start:.4g} Å, is finer than the finest, {extent / finest:.4g} Å",
            config.particles,
            "give a coarser --start-resolution or a finer --max-resolution",
        )
    return finest


def finest_resolution(particles: Particles, config: ParticleRun) -> float:
    """Å of the finest resolution that half-sets may look at images to."""
    return max(particles.nyquist, config.max_resolution or 0.0)


def corner_noise(images: ImageStore, radius: float, members: np.ndarray) -> Noise:
    """Noise variance from what lies outside some of the particles, or at least from the corners."""
    limit = min(radius, images.size / 2 - 4.0)
    if not images.strange[members].all():
        members = members[~images.strange[members]]
    groups = images.particles.optics_index[members]
    count = len(images.particles.optics)
    # As many of every group, so that none is without an estimate.
    each = max(50, _NOISE_SAMPLE // count)
    sample = np.concatenate([np.flatnonzero(groups == number)[:each] for number in range(count)])
    values = torch.as_tensor(images.pixels(members[sample])).to(images.device).float()
    return noise_from_corners(values, torch.as_tensor(groups[sample], device=images.device), count, limit)


def brought_in(given: Map, extent: float, mask: Tensor) -> Tensor:
    """A given map inside a mask (W, W, W) and at its sampling; the side of the particles' box is in Å."""
    masked = _at_sampling(given, len(mask), extent, "map").to(mask) * mask
    if not masked.any():
        raise CryogradError("the map is empty inside the mask", given.source, "give a map with density")
    return masked


def _at_sampling(given: Map, size: int, extent: float, name: str) -> Tensor:
    """A given map, of that name, in a box of the particles' extent."""
    if abs(given.extent - extent) > 0.01 * extent:
        raise CryogradError(
            f"the {name}'s box is {given.extent:.1f} Å, the particles' is {extent:.1f} Å",
            given.source,
            f"give a {name} in the particles' box",
        )
    return torch.as_tensor(resample_map(given.values, given.pixel_size, size, extent / size))


def taken_out(state: State, particles: Particles, symmetry: str, volume: Tensor) -> Map:
    """A map of a state at the sampling of the first optics group.

    Parameters
    ----------
    state, particles
        The state and its particles.
    symmetry
        Point group of the map.
    volume
        Shape (l, l, l), in any box of the state's extent.
    """
    optics, size = particles.optics[0], state.size
    full = Symmetrizer(symmetry, size, state.radius).forward(resize_transform(volume, size))
    # What lies beyond the march's radius comes from positivity, not from the images.
    full = lowpass_volume(full, min(state.radius + 1.0, size / 2 - 1.0))
    pixel = state.extent / size
    density = resample_map(full.cpu().numpy(), pixel, optics.box_size, optics.pixel_size)
    return Map(density * np.float32(optics.pixel_size / pixel), optics.pixel_size)


def mask_of(state: State, particles: Particles) -> NDArray[np.float32]:
    """The run's mask at the sampling of the first optics group, (L, L, L)."""
    optics, mask = particles.optics[0], state.mask.cpu().numpy()
    full = resample_map(mask, state.extent / len(mask), optics.box_size, optics.pixel_size)
    return np.clip(full, 0.0, 1.0)


def solvent_mask(config: ParticleRun, size: int, extent: float, radius: float) -> Tensor:
    """The given mask at the working sampling, or a soft sphere."""
    if config.mask is None:
        return torch.as_tensor(np.asarray(soft_sphere(size, radius, 5.0)), dtype=torch.float32)
    mask = _at_sampling(Map.read(config.mask), size, extent, "mask").clamp(0.0, 1.0)
    if float(mask.max()) < 0.5:
        raise CryogradError(
            "the mask is empty", config.mask, "give a mask that is 1 where the molecule may be"
        )
    return mask


def _refuse_lengths(config: ParticleRun, extent: float, pixel: float) -> None:
    """Refuse lengths that do not fit the box."""
    limits = [
        ("--particle-diameter", config.particle_diameter, 8.0 * pixel, extent),
        ("--max-shift", config.max_shift, 0.0, 0.5 * extent),
        ("--start-resolution", config.start_resolution, 0.0, 0.5 * extent),
    ]
    for option, value, least, most in limits:
        if value is not None and not least <= value <= most:
            raise CryogradError(
                f"{option} {value:g} Å does not fit a box of {extent:.0f} Å",
                config.particles,
                f"give {least:.3g} to {most:.3g} Å",
            )
