"""What a refinement knows of poses before it begins: nothing, or those of the particle file."""

import math

import numpy as np

from cryograd.config import HalfSetRun, Refine
from cryograd.data.particles import Particles
from cryograd.engine.run import group_of
from cryograd.engine.setup import PoseSource, symmetries_of
from cryograd.errors import CryogradError
from cryograd.pose.known import Known
from cryograd.pose.memory import Memory
from cryograd.pose.proposal import Annealing
from cryograd.pose.sampling import Sampler
from cryograd.pose.seeding import seeded_memory


def poses_of_file(particles: Particles, config: Refine, max_shift: float) -> PoseSource:
    """The poses that a refinement begins with."""
    if not (config.seeded or config.fixed_poses):
        return no_poses(particles, config)
    if particles.rotations is None or particles.shifts is None:
        raise CryogradError(
            "the particle file has no poses to begin with",
            particles.source,
            "give one with angles and origins, or leave out the options that look at them",
        )
    if config.fixed_poses:
        return PoseSource(None, Memory.empty(0), Known(particles.rotations, particles.shifts))
    distance = np.linalg.norm(particles.shifts, axis=1)
    if config.near and distance.max() > max_shift:
        raise CryogradError(
            f"{np.sum(distance > max_shift)} particles are up to {distance.max():.1f} Å off the centre, and "
            f"shifts are looked for up to {max_shift:.1f} Å",
            particles.source,
            f"give --max-shift {math.ceil(distance.max())}, or remove them",
        )
    spread = np.deg2rad(config.local_angle), config.local_shift
    group = group_of(config.relax_symmetry or "C1")
    memory = seeded_memory(particles.rotations, particles.shifts, spread, group)
    return PoseSource(_sampler(config, config.near), memory)


def no_poses(particles: Particles, config: HalfSetRun) -> PoseSource:
    """Nothing is known of the poses."""
    if config.proposal != "importance":
        return PoseSource(None, Memory.empty(0))
    return PoseSource(_sampler(config, near=False), Memory.empty(len(particles)))


def _sampler(config: HalfSetRun, near: bool) -> Sampler:
    """How poses are drawn; near a known pose nothing is drawn from elsewhere."""
    annealing = Annealing(period=0, least_uniform=0.0 if near else 0.05)
    return Sampler(annealing, config.samples, group_of(symmetries_of(config)[0]), near)
