"""What the experiments share: sizes, particles, runs and their scores."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.batches import Minibatch
from cryograd.engine.frame import chosen_device, final_radius, particle_diameter, taken_out
from cryograd.engine.run import Run
from cryograd.engine.setup import joint_run, with_prior
from cryograd.engine.start import random_state
from cryograd.engine.state import State
from cryograd.fourier import HalfDisc, quick_size
from cryograd.images.held import read_images
from cryograd.maps import Map
from cryograd.pose.posterior import Batch
from cryograd.recipe import FINEST_RADIUS, abinitio
from cryograd.simulation.simulate import density_diameter
from cryograd.threads import set_threads
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated import SYMMETRY, density, particles_of, save

__all__ = [
    "MAX_SHIFT",
    "SYMMETRY",
    "agreement",
    "aligned",
    "arguments",
    "begun",
    "configuration",
    "density",
    "map_of",
    "particles_of",
    "reconstruct",
    "save",
    "whitened",
]

# Images are shifted by up to 10 Å.
MAX_SHIFT = 12.0


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Parameters
    ----------
    name
        ``paper``, ``small`` or ``quick``.
    box, pixel_size
        Of the images; pixels and Å.
    particles
        Number of images.
    snr
        Signal-to-noise ratio inside the particle's circle.
    start_resolution, finest
        First and last resolution of the march in Å.
    minibatch
        Images in an iteration.
    passes
        Times that a run draws every image, at least.
    """

    name: str
    box: int
    pixel_size: float
    particles: int
    snr: float
    start_resolution: float
    finest: float
    minibatch: int
    passes: float

    @property
    def extent(self) -> float:
        """Side of the box in Å."""
        return self.box * self.pixel_size

    @property
    def iterations(self) -> int:
        """Iterations of a run; a fifth more than full minibatches need, since the first ones are half."""
        return math.ceil(1.2 * self.passes * self.particles / self.minibatch)


# The paper's set of simulated images and its 5,000 iterations' march, in as many passes as its figures show.
PAPER = Size("paper", 128, 2.8, 40_000, 0.05, 40.0, 10.0, 200, 5.0)
SMALL = Size("small", 64, 5.6, 1000, 0.1, 40.0, 18.0, 100, 6.0)
QUICK = Size("quick", 32, 11.2, 400, 0.3, 60.0, 25.0, 50, 6.0)


def arguments(description: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line, with the `Size` they ask for as ``size``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that holds structures/*.pdb.gz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for figures and particles")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="a size that takes minutes")
    sizes.add_argument("--small", action="store_true", help="a size for many runs, which takes an hour")
    parser.add_argument("--particles", type=int, help="images, in place of the size's own number")
    parser.add_argument("--passes", type=float, help="passes over the images, in place of the size's own")
    parser.add_argument(
        "--symmetry", default="C1", help="point group of the main run; the paper imposes none"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(argv)
    size = QUICK if options.quick else SMALL if options.small else PAPER
    given = {
        key: getattr(options, key) for key in ("particles", "passes") if getattr(options, key) is not None
    }
    options.size = replace(size, **given)
    set_threads(options.threads)
    return options


def configuration(size: Size, folder: Path, truth: Map, **changes: Any) -> Abinitio:
    """Options of a run on the particles in a folder; by default from one random start, as in the paper."""
    options = {
        "particle_diameter": min(0.95 * size.extent, 1.1 * density_diameter(truth.values, truth.pixel_size)),
        "max_shift": MAX_SHIFT,
        "max_resolution": size.finest,
        "start_resolution": size.start_resolution,
        "minibatch": size.minibatch,
        "iterations": size.iterations,
        "starts": 1,
    }
    return Abinitio(particles=folder / "particles.star", **(options | changes))


def begun(particles: Particles, config: Abinitio) -> tuple[Run, State]:
    """A run and its state before the first iteration, as `cryograd.recipe.abinitio` sets them up."""
    finest = final_radius(particles, config, FINEST_RADIUS, 0.9 * particles.extent / particles.nyquist)
    size = quick_size(finest, max(optics.box_size for optics in particles.optics))
    diameter = particle_diameter(particles, config)
    images = read_images(particles, size, particles.extent, diameter, chosen_device(config.device))
    run = joint_run(images, config, finest)
    state = random_state(run, config)
    return with_prior(run, config, state), state


def whitened(run: Run, state: State, images: np.ndarray, disc: HalfDisc) -> Batch:
    """Some images as a run's next iteration would have them."""
    return Minibatch(run, state, 0, images, disc).part(slice(0, len(images)))


def reconstruct(
    particles: Particles, config: Abinitio, every: Callable[[State], None] | None = None
) -> State:
    """The last state of a run, after showing each one to ``every``, which the next iteration changes."""
    state = None
    for moment in abinitio(particles, config):
        state = moment.state
        if every is not None:
            every(state)
    assert state is not None
    return state


def map_of(state: State, particles: Particles) -> Map:
    """A state's map at the sampling of its particles."""
    return taken_out(state, particles, state.sides[0].best.symmetry, state.volume)


def aligned(volume: Map, truth: Map) -> Map:
    """A map turned onto the truth, at its sampling."""
    found = align(volume.values, truth.values, volume.pixel_size, truth.pixel_size)
    return Map(found.volume, truth.pixel_size)


def agreement(volume: Map, truth: Map) -> dict[str, Any]:
    """Fourier shell correlation of an aligned map with the truth, and where in Å it falls to one half."""
    _, values = fsc(volume.values, truth.values)
    resolution = resolution_at(values, 0.5, len(truth.values), truth.pixel_size)
    return {"fsc": values.tolist(), "fsc05_angstrom": None if resolution is None else float(resolution)}
