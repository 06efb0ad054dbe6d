"""Images as a run near its end knows them: visited before, each with a posterior that it remembers."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import begun, configuration, particles_of, whitened
from cryograd.data.density import resample_map
from cryograd.engine.run import Run
from cryograd.engine.searches import drawn_poses, search_at
from cryograd.engine.state import State
from cryograd.pose.sampling import Sampling

# The paper's run: by its end a proposal trusts what is remembered as far as it ever does.
ITERATIONS = 5000


def converged(options: argparse.Namespace, name: str, **changes: Any) -> tuple[Run, State]:
    """A run on simulated particles after its last step, its map the truth up to its final resolution."""
    size = options.size
    folder: Path = options.output / name
    particles, truth = particles_of("groel-groes", size, options.data, folder, seed=options.seed)
    changes = {"proposal": "importance", "iterations": ITERATIONS, "device": options.device} | changes
    run, state = begun(particles, configuration(size, folder, truth, seed=options.seed, **changes))
    pixel = run.images.extent / run.images.size
    # Projections sum voxels along the ray, of which the working box has fewer.
    volume = resample_map(truth.values, truth.pixel_size, run.images.size, pixel) * (pixel / truth.pixel_size)
    set_map(state, torch.as_tensor(volume, dtype=torch.float32, device=state.mask.device))
    state.iteration, state.stage = run.program.moves, "settle"
    return run, state


def set_map(state: State, volume: torch.Tensor) -> None:
    """Give a state another map."""
    (side,) = state.sides
    state.sides[0] = replace(side, tracks=(replace(side.tracks[0], volume=volume),))


def drawn(
    run: Run, state: State, images: np.ndarray, later: int = 0, samples: float | None = None
) -> Sampling:
    """The poses that images are drawn, some iterations after a state's, and with another number of draws."""
    sampler = run.sampler
    assert sampler is not None
    sampler = sampler if samples is None else replace(sampler, samples=samples)
    state = replace(state, iteration=state.iteration + later)
    found = drawn_poses(run, sampler, state, images, run.program.final_radius)
    assert found is not None
    return found


def visit(run: Run, state: State, images: np.ndarray, rounds: int) -> None:
    """Search the poses of images at the final radius, and then draw them some rounds."""
    radius, symmetry = run.program.final_radius, run.symmetries[0]
    likelihood = run.likelihood(radius, symmetry)
    for number in range(rounds + 1):
        batch = whitened(run, state, images, likelihood.disc)
        search = search_at(run, radius, state.iteration, symmetry, remembered=True)
        found = likelihood.infer(state.volume, batch, drawn(run, state, images) if number else search)
        state.iteration += 1
        state.memory.update(images, found.marginals)
        state.table.update(images, found.poses)
