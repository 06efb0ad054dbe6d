"""Images as a run near its end knows them: visited before, each with a posterior that it remembers."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import configuration, particles_of
from cryograd.data.density import resample_map
from cryograd.minibatch import drawn_poses, search_at, whitened
from cryograd.prepare import AbinitioSetup, prepare
from cryograd.state import State

# The paper's run: by its end a proposal trusts what is remembered as far as it ever does.
ITERATIONS = 5000


def converged(options: argparse.Namespace, name: str, **changes: Any) -> tuple[AbinitioSetup, State]:
    """A run on simulated particles after its last step, its map the truth up to its final resolution."""
    size = options.size
    folder: Path = options.output / name
    particles, truth = particles_of("groel-groes", size, options.data, folder, seed=options.seed)
    changes = {"proposal": "importance", "iterations": ITERATIONS, "device": options.device} | changes
    setup, state = prepare(particles, configuration(size, folder, truth, seed=options.seed, **changes))
    pixel = setup.images.extent / setup.images.size
    # Projections sum voxels along the ray, of which the working box has fewer.
    volume = resample_map(truth, size.pixel_size, setup.images.size, pixel) * (pixel / size.pixel_size)
    volume = torch.as_tensor(volume, dtype=torch.float32, device=state.mask.device)
    return setup, at_map(replace(state, stage="settle", iteration=setup.plan.optimisation), volume)


def at_map(state: State, volume: torch.Tensor) -> State:
    """The state with another map."""
    return replace(state, candidates=(replace(state.candidates[0], volume=volume),))


def visited(setup: AbinitioSetup, state: State, images: np.ndarray, rounds: int) -> State:
    """The state after its images' poses were searched at the final radius, and then drawn some rounds."""
    radius = setup.plan.final_radius
    likelihood = setup.likelihood(radius)
    for number in range(rounds + 1):
        batch, _ = whitened(setup, state, images, likelihood.disc)
        drawn = drawn_poses(setup, state, images, radius) if number else None
        search = search_at(setup, radius, state.iteration, remembered=True) if drawn is None else drawn
        found = likelihood.infer(state.volume, batch, search)
        state = replace(
            state,
            iteration=state.iteration + 1,
            memory=state.memory.updated(images, found.marginals),
            posterior=state.posterior.updated(images, found.poses),
        )
    return state
