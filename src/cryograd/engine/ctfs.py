"""An iteration that finds the defocus of particles; maps do not change."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cryograd.engine.moves import Work, row_of
from cryograd.engine.program import Step
from cryograd.engine.run import Run
from cryograd.engine.state import Side, State, Track
from cryograd.objective.ctf_refinement import CtfStatistics, refine_ctf
from cryograd.pose.inference import concatenated
from cryograd.pose.posterior import Poses

# Å: how far a particle's defocus may be from what its file says, as a standard deviation.
DEFOCUS_WIDTH = 300.0


def ctfs_found(run: Run, state: State, number: int, step: Step) -> tuple[Side, dict[str, Any]]:
    """A side whose next particles have a defocus, each by the map of its likeliest class."""
    work = Work.of(run, state, number, step)
    likeliest = state.table.classes[work.indices].argmax(axis=1)
    # What defocus spreads beyond the particle says most of it.
    images = work.images(masked=False)
    statistics, found = [], []
    for place, track in enumerate(work.side.tracks):
        mine = np.flatnonzero(likeliest == place)
        if len(mine):
            parts, poses = _statistics(replace(work, indices=work.indices[mine]), track)
            statistics += parts
            found += poses
    frequencies = torch.as_tensor(images.disc.frequencies / state.extent, device=run.images.device)
    fit = refine_ctf(run.images.particles, frequencies, statistics, DEFOCUS_WIDTH, run.scale_width)
    state.table.defocus_change[work.indices] = fit.change[work.indices]
    side = replace(work.side, images_drawn=work.side.images_drawn + len(work.indices))
    return side, row_of(work, Poses(*concatenated(found)), side)


def _statistics(work: Work, track: Track) -> tuple[list[tuple[np.ndarray, CtfStatistics]], list[Poses]]:
    """What images say of their CTFs under one map, with the particles of each part, and their poses."""
    images = work.images(masked=False)
    parts, poses = [], []
    for part, inference in work.likelihood(track).inferences(track.volume, images, work.looked(track)):
        ctf = images.loaded(part).ctf * images.scale[part, None]
        parts.append((work.indices[part], CtfStatistics.of(inference.statistics, ctf)))
        poses.append(inference.poses)
    return parts, poses
