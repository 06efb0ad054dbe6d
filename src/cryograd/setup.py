"""What every run derives from its data and options: images at its sampling, mask, noise, minibatches."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryograd.config import ParticleRun
from cryograd.data.cache import ImageCache, build_cache
from cryograd.data.density import resample_map
from cryograd.data.mrc import read_map
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.fourier import quick_size
from cryograd.model.noise import Noise, noise_from_corners
from cryograd.model.projection import slice_points
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.pose.sampling import Sampler
from cryograd.rotations import random_rotations
from cryograd.steps.protocol import Solver
from cryograd.validation.fsc import soft_sphere

# Radius in Fourier pixels at which large particles start, which 40 Å would show too much of.
COARSEST_RADIUS = 6.0
# Images from which the noise is first estimated.
_NOISE_SAMPLE = 2000
# Images whose signal a start is scaled to.
_SIGNAL_SAMPLE = 500


@dataclass(frozen=True)
class Setup:
    """What a run derives from its data and options and never changes.

    Parameters
    ----------
    images
        Images at the working sampling.
    mask
        Solvent mask (W, W, W) of the images' box.
    max_shift
        Å.
    solver, seed
        As chosen.
    symmetry, group
        Point group, and its matrices.
    precision
        Of the exhaustive products.
    sampler
        How poses are drawn; None where they are searched.
    train
        Particles that change the map.
    partition
        Their minibatches, for solvers that want fixed ones.
    hard
        Whether each image counts at its best pose alone.
    scale_width
        Standard deviation of the prior of an image's scale around 1; 0 where all have the scale 1.
    """

    images: ImageCache
    mask: Tensor
    max_shift: float
    solver: Solver
    seed: int
    symmetry: str
    group: np.ndarray
    precision: str
    sampler: Sampler | None
    train: np.ndarray
    partition: tuple[np.ndarray, ...]
    hard: bool
    scale_width: float

    def likelihood(self, radius: float, size: int | None = None) -> MarginalLikelihood:
        """The likelihood at a radius, of maps in the images' box or in another of the same extent."""
        box = size or self.images.size
        # Three digits are enough for how the gradient of each minibatch ages, where all are kept.
        weights = torch.bfloat16 if self.solver.needs.takes == "parts" else None
        return MarginalLikelihood(box, self.images.extent, radius, self.symmetry, self.precision, weights)


@dataclass(frozen=True)
class Working:
    """Images at the working sampling, and what follows from them.

    Parameters
    ----------
    images
        The images.
    mask
        Solvent mask (W, W, W).
    radius
        Of the particle in voxels.
    max_shift
        Å.
    """

    images: ImageCache
    mask: Tensor
    radius: float
    max_shift: float


def working_images(
    particles: Particles,
    config: ParticleRun,
    finest: float,
    reading: Callable[[int, int], None] | None = None,
) -> Working:
    """Read the images at a sampling that holds the finest radius, in Fourier pixels."""
    extent = particles.extent
    size = quick_size(finest, max(o.box_size for o in particles.optics))
    _refuse_lengths(config, extent, extent / size)
    diameter = config.particle_diameter or 0.9 * extent
    images = build_cache(particles, size, extent, diameter, chosen_device(config.device), reading)
    radius = 0.5 * diameter / extent * size
    mask = _solvent_mask(config.mask, size, extent, radius).to(images.device)
    max_shift = 0.2 * extent if config.max_shift is None else config.max_shift
    return Working(images, mask, radius, max_shift)


def partition(train: np.ndarray, parts: int, seed: int) -> tuple[np.ndarray, ...]:
    """Minibatches of nearly equal size, of random particles."""
    shuffled = np.random.default_rng([seed, 7]).permutation(train)
    return tuple(np.sort(part) for part in np.array_split(shuffled, parts))


def chosen_device(name: str) -> torch.device:
    """The device that an option names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise CryogradError("there is no CUDA device", "--device cuda", "use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def scaled_to_signal(
    setup: Setup, noise: Noise, volume: Tensor, radius: float, rng: np.random.Generator
) -> Tensor:
    """A volume (L, L, L) whose projections have the power of the images' signal up to a radius."""
    likelihood = setup.likelihood(radius)
    some = setup.train[:_SIGNAL_SAMPLE]
    n = len(some)
    loaded = setup.images.load(some, likelihood.disc, np.zeros((n, 2)), np.full(n, np.inf))
    rotations = torch.as_tensor(random_rotations(n, rng)).to(volume)
    points = slice_points(likelihood.disc, volume.device)
    slices = likelihood.projector.sample(likelihood.transform(volume), rotations, points)
    variance = noise.on_disc(likelihood.disc, loaded.group)
    signal = float((loaded.images.abs().square() / variance - 1.0).mean())
    model = float(((loaded.ctf * slices).abs().square() / variance).mean())
    # Images without excess power at low resolution still get a start of some size.
    return volume * math.sqrt(max(signal, 1e-3) / model)


def corner_noise(images: ImageCache, radius: float, members: np.ndarray) -> Noise:
    """Noise variance from what lies outside some of the particles, or at least from the corners."""
    limit = min(radius, images.size / 2 - 4.0)
    groups = images.particles.optics_index[members]
    count = len(images.particles.optics)
    # As many of every group, so that none is without an estimate.
    each = max(50, _NOISE_SAMPLE // count)
    sample = np.concatenate([np.flatnonzero(groups == number)[:each] for number in range(count)])
    values = torch.as_tensor(images.images[members[sample]]).to(images.device).float()
    return noise_from_corners(values, torch.as_tensor(groups[sample], device=images.device), count, limit)


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


def _refuse_lengths(config: ParticleRun, extent: float, pixel: float) -> None:
    """Refuse lengths that do not fit the box."""
    diameter, shift, start = config.particle_diameter, config.max_shift, config.start_resolution
    limits = [
        ("--particle-diameter", diameter, 8.0 * pixel, extent),
        ("--max-shift", shift, 0.0, 0.5 * extent),
        ("--start-resolution", start, 0.0, 0.5 * extent),
    ]
    for option, value, least, most in limits:
        if value is not None and not least <= value <= most:
            raise CryogradError(
                f"{option} {value:g} Å does not fit a box of {extent:.0f} Å",
                config.particles,
                f"give {least:.3g} to {most:.3g} Å",
            )


def _solvent_mask(path: Path | None, size: int, extent: float, radius: float) -> Tensor:
    """The given mask at the working sampling, or a soft sphere."""
    if path is None:
        return torch.as_tensor(np.asarray(soft_sphere(size, radius, 5.0)), dtype=torch.float32)
    mask, pixel = read_map(path)
    if abs(mask.shape[0] * pixel - extent) > 0.01 * extent:
        raise CryogradError(
            f"the mask's box is {mask.shape[0] * pixel:.1f} Å, the particles' is {extent:.1f} Å",
            path,
            "give a mask in the particles' box",
        )
    resampled = torch.as_tensor(resample_map(mask, pixel, size, extent / size)).clamp(0.0, 1.0)
    if float(resampled.max()) < 0.5:
        raise CryogradError("the mask is empty", path, "give a mask that is 1 where the molecule may be")
    return resampled
