"""The run that the figures on poses, points, views and time are drawn from.

GroEL-GroES in biased views, reconstructed without symmetry from one random start, its poses drawn by
importance sampling. What the figures need is kept below OUT/main_run and used again.

    python main_run.py DATA -o OUT [--quick]
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from common import arguments, begun, configuration, map_of, particles_of, reconstruct
from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.state import State
from cryograd.maps import Map

MOLECULE = "groel-groes"
# Passes over the images at which the map is kept besides each full one: the gross structure comes early.
EARLY = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
# Images that the random start is scaled by; the start of a run on all of them is the same.
START_IMAGES = 2000


@dataclass(frozen=True)
class Snapshot:
    """A run at one time.

    Parameters
    ----------
    passes
        Images drawn so far as a multiple of all.
    iteration, radius, seconds
        Iterations done, the resolution in Fourier pixels, and the time that the iterations took.
    volume, noise
        The map in the working box (W, W, W) and the noise variance.
    density, pixel_size
        The map at the images' sampling (L, L, L), and that in Å.
    """

    passes: float
    iteration: int
    radius: float
    seconds: float
    volume: torch.Tensor
    noise: torch.Tensor
    density: torch.Tensor
    pixel_size: float

    @staticmethod
    def of(state: State, particles: Particles) -> "Snapshot":
        """What is kept of a state."""
        found, side = map_of(state, particles), state.sides[0]
        return Snapshot(
            passes=side.images_drawn / len(particles),
            iteration=state.iteration,
            radius=state.radius,
            seconds=sum(sum(row["seconds"].values()) for row in state.history),
            volume=state.volume.cpu(),
            noise=side.noise.variance.cpu(),
            density=torch.from_numpy(found.values),
            pixel_size=found.pixel_size,
        )

    @property
    def map(self) -> Map:
        """The map at the images' sampling."""
        return Map(self.density.numpy(), self.pixel_size)


@dataclass(frozen=True)
class MainRun:
    """A finished run: its input, its history, the map at times, and its final rotations (n, 3, 3)."""

    particles: Particles
    truth: Map
    config: Abinitio
    history: list[dict[str, Any]]
    snapshots: list[Snapshot]
    rotations: np.ndarray

    @property
    def optimisation(self) -> list[dict[str, Any]]:
        """The rows of the iterations that changed the map."""
        return [row for row in self.history if row["stage"] != "poses"]


def load_or_run(options: argparse.Namespace) -> MainRun:
    """The main run, computed unless a finished one of the same options is there."""
    size, folder = options.size, options.output / "main_run"
    particles, truth = particles_of(MOLECULE, size, options.data, folder, "biased", options.seed)
    changes = {name: getattr(options, name) for name in ("symmetry", "seed", "device", "threads")}
    config = configuration(size, folder, truth, proposal="importance", **changes)
    finished, kept = folder / "finished.json", folder / "kept.pt"
    wanted = {"size": asdict(size), "options": config.model_dump(mode="json")}
    if not finished.is_file() or json.loads(finished.read_text()) != wanted:
        finished.unlink(missing_ok=True)
        torch.save(_run(particles, config), kept)
        finished.write_text(json.dumps(wanted, indent=2) + "\n")
    found = torch.load(kept, weights_only=True)
    snapshots = [Snapshot(**row) for row in found["snapshots"]]
    return MainRun(particles, truth, config, found["history"], snapshots, found["rotations"].numpy())


def _run(particles: Particles, config: Abinitio) -> dict[str, Any]:
    """Reconstruct, and say what is to be kept."""
    first = np.arange(min(START_IMAGES, len(particles)))
    snapshots = [Snapshot.of(begun(particles.select(first), config)[1], particles)]
    due = EARLY[0]

    def every(state: State) -> None:
        nonlocal due
        passes = state.sides[0].images_drawn / len(particles)
        last = state.iteration == state.total_iterations
        if last or (passes >= due and state.stage != "poses"):
            snapshots.append(Snapshot.of(state, particles))
            due = min((early for early in EARLY if early > passes), default=math.floor(passes) + 1)

    state = reconstruct(particles, config, every)
    rotations = torch.from_numpy(state.table.rotations)
    return {"history": state.history, "snapshots": [vars(s) for s in snapshots], "rotations": rotations}


if __name__ == "__main__":
    options = arguments(__doc__)
    run = load_or_run(options)
    print(f"{len(run.snapshots)} snapshots in {options.output / 'main_run'}")
