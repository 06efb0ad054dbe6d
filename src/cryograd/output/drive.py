"""The loop around a recipe: a folder with maps, log and a checkpoint all along, progress and Ctrl-C."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from cryograd.config import ParticleRun
from cryograd.data.particles import Particles, image_names
from cryograd.errors import CryogradError
from cryograd.output import checkpoint
from cryograd.output.checkpoint import Checkpoint
from cryograd.output.folder import RunFolder
from cryograd.output.interrupt import StopRequest
from cryograd.output.products import write_maps
from cryograd.output.progress import Progress
from cryograd.output.record import check_same_run, write_record
from cryograd.recipe import Moment, Reading
from cryograd.results import maps_so_far

# A recipe for some particles and options: its moments from one that was saved, or from the start where that
# is None.
Moments = Callable[[dict[str, Any] | None, Reading], Iterator[Moment]]


def begun(folder: RunFolder, command: str, config: ParticleRun) -> None:
    """Check the output folder before anything is read or written."""
    folder.check(config.resume)
    if config.resume:
        check_same_run(folder, command, config)


def drive(
    folder: RunFolder,
    command: str,
    config: ParticleRun,
    particles: Particles,
    moments: Moments,
    callback: Callable[[Moment], None] | None = None,
) -> tuple[Moment, float]:
    """Run a recipe to its end in a folder.

    Parameters
    ----------
    folder, command, config, particles
        What is run, and where.
    moments
        The recipe.
    callback
        Called after every iteration.

    Returns
    -------
    tuple
        The last moment, and the seconds that all took.
    """
    images = image_names(particles)
    saved = checkpoint.load(folder.checkpoint) if config.resume else None
    if saved is not None and saved.images != images:
        raise CryogradError(
            "the particle file names other images than when the run began",
            config.particles,
            "restore it, or start a new run in another folder",
        )
    if saved is not None and abs(saved.moment["state"]["extent"] / particles.extent - 1.0) > 1e-6:
        raise CryogradError(
            f"the particles' box is {particles.extent:.1f} Å and was {saved.moment['state']['extent']:.1f} Å",
            config.particles,
            "resume with the pixel size that the run began with",
        )
    if saved is None:
        folder.create()
        write_record(folder, command, config)
    began = time.monotonic() - (saved.wall_seconds if saved else 0.0)
    schedule = checkpoint.Schedule(config.checkpoint_seconds)
    moment = None
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        progress = stack.enter_context(Progress())
        try:
            for moment in moments(saved.moment if saved else None, progress.reading):
                if saved is not None:
                    # The log may reach beyond the checkpoint, whose tensors are in the state now.
                    folder.rewrite_log(moment.history[:-1])
                    saved = None
                folder.append_log(moment.state.history[-1])
                progress.show(moment)
                if schedule.due() or stop.requested or moment.ends:
                    now = time.monotonic()
                    made = Checkpoint(moment.saved(), now - began, images)
                    checkpoint.save(folder.checkpoint, made)
                    write_maps(folder, maps_so_far(particles, moment), moment.best)
                    schedule.took(time.monotonic() - now)
                # After the first checkpoint, which is made at once: the run can go on from what this raises.
                if callback is not None:
                    callback(moment)
                if stop.requested:
                    progress.say(f"continue with: cryograd {command} -o {folder.path} --resume")
                    stop.leave()
        except BaseException:
            # A new run that ends before its first iteration, for whatever reason, leaves nothing behind.
            if not config.resume and moment is None:
                folder.discard()
            raise
    assert moment is not None
    return moment, time.monotonic() - began
