"""The loop around a recipe: a folder with maps, log and a checkpoint all along, progress and Ctrl-C."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from cryograd.config import ParticleRun
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError, FruitlessError
from cryograd.output import checkpoint
from cryograd.output.checkpoint import Checkpoint
from cryograd.output.folder import RunFolder
from cryograd.output.given import refuse_changed
from cryograd.output.interrupt import StopRequest
from cryograd.output.products import write_maps
from cryograd.output.progress import Progress
from cryograd.recipe import Moment, Reading
from cryograd.results import maps_so_far
from cryograd.settings import record

# A recipe for some particles and options: its moments from one that was saved, or from the start where that
# is None.
Moments = Callable[[dict[str, Any] | None, Reading], Iterator[Moment]]


def drive(
    folder: RunFolder,
    config: ParticleRun,
    particles: Particles,
    given: dict[str, str],
    moments: Moments,
    callback: Callable[[Moment], None] | None = None,
) -> tuple[Moment, float]:
    """Run a recipe to its end in a folder.

    Parameters
    ----------
    folder, config, particles
        What is run, and where.
    given
        Digests of what it is given.
    moments
        The recipe.
    callback
        Called after every iteration.

    Returns
    -------
    tuple
        The last moment, and the seconds that all took.
    """
    saved = checkpoint.load(folder.checkpoint) if config.resume else None
    text = record(config.command, config) if saved is None else saved.record
    if saved is None:
        with folder.writing():
            folder.write_record(text)
    else:
        refuse_changed(saved.given, given, config)
    began = time.monotonic() - (saved.wall_seconds if saved else 0.0)
    schedule = checkpoint.Schedule(config.checkpoint_seconds)
    moment = None
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        progress = stack.enter_context(Progress())
        for moment in _told(moments(saved.moment if saved else None, progress.reading), folder):
            with folder.writing():
                if saved is not None:
                    # The log may reach beyond the checkpoint, whose tensors are in the state now.
                    folder.rewrite_log(moment.history[:-1])
                    saved = None
                folder.append_log(moment.state.history[-1])
            progress.show(moment)
            if schedule.due() or stop.requested or moment.ends:
                now = time.monotonic()
                with folder.writing():
                    checkpoint.save(folder.checkpoint, Checkpoint(moment.saved(), now - began, text, given))
                    write_maps(folder, maps_so_far(particles, moment), moment.best)
                schedule.took(time.monotonic() - now)
            # After the first checkpoint, which is made at once: the run can go on from what this raises.
            if callback is not None:
                callback(moment)
            if stop.requested:
                progress.say(f"continue with: cryograd {config.command} -o {folder.path} --resume")
                stop.leave()
    return _last(moment, folder), time.monotonic() - began


def ended(
    folder: RunFolder, config: ParticleRun, given: dict[str, str], moments: Moments
) -> tuple[Moment, float]:
    """The last moment of a run that has ended, and the seconds that it took; nothing is written.

    Parameters
    ----------
    folder, config, given, moments
        As for `drive`.
    """
    saved = checkpoint.load(folder.checkpoint)
    refuse_changed(saved.given, given, config)
    moment = next(moments(saved.moment, lambda done, total: None), None)
    return _last(moment, folder), saved.wall_seconds


def _last(moment: Moment | None, folder: RunFolder) -> Moment:
    """A moment, without which a checkpoint is of another program than the run's."""
    if moment is None:
        raise CryogradError(
            "the checkpoint goes beyond the end of the run",
            folder.checkpoint,
            "start the run in a new folder",
        )
    return moment


def _told(moments: Iterator[Moment], folder: RunFolder) -> Iterator[Moment]:
    """Moments; where they come to nothing, which a continuation would come to again, what is left is said."""
    try:
        yield from moments
    except FruitlessError as error:
        if not folder.checkpoint.exists():
            raise
        remedy = f"{error.remedy}, in another folder than {folder.path}, which keeps the maps so far"
        raise CryogradError(error.what, error.where, remedy) from error
