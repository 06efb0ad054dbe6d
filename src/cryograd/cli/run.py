"""What every run on particle images has around its engines: folder, checkpoints, progress, Ctrl-C."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cryograd import __version__, checkpoint
from cryograd.checkpoint import Checkpoint
from cryograd.cli.folder import RunFolder
from cryograd.cli.interrupt import StopRequest
from cryograd.cli.options import read_toml
from cryograd.cli.progress import Progress
from cryograd.config import ParticleRun, to_toml
from cryograd.data.particles import Particles, image_names
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.threads import set_threads

# What may differ between a run and its continuation; with other threads it ends with other rounding.
_FREE = {"output", "threads", "checkpoint_seconds"}


class Yielded(Protocol):
    """What an engine yields after every iteration; its history has a row for each."""

    @property
    def iteration(self) -> int: ...
    @property
    def total_iterations(self) -> int: ...
    @property
    def stage(self) -> str: ...
    @property
    def resolution(self) -> float: ...
    @property
    def history(self) -> list[dict[str, Any]]: ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain data."""
        ...


S = TypeVar("S", bound=Yielded)


@dataclass(frozen=True)
class Engine(Generic[S]):
    """A generator of states, and what the shell does with them.

    Parameters
    ----------
    run
        The states from one on, or from the start where it is None; it tells how many images it has read.
    restore
        A state from what a checkpoint has of it.
    keep
        Writes what there is of the maps.
    """

    run: Callable[[S | None, Callable[[int, int], None]], Iterator[S]]
    restore: Callable[[dict[str, Any]], S]
    keep: Callable[[S], None]


@dataclass(frozen=True)
class Outcome:
    """The last state of a run, the log of all its engines, and the seconds that it took."""

    state: Any
    log: list[dict[str, Any]]
    seconds: float


def begin(config: ParticleRun) -> tuple[RunFolder, Particles]:
    """Check the output folder and read the particle file, before anything is written."""
    for name, users in config.idle.items():
        if getattr(config, name) != type(config).model_fields[name].default:
            option = f"--{name.replace('_', '-')}"
            raise CryogradError(f"nothing looks at it without {users}", option, "leave it out, or give both")
    folder = RunFolder(config.output)
    folder.check(config.resume)
    if config.resume:
        _check_same_run(config, folder)
    particles = read_particles(
        config.particles, pixel_size=config.pixel_size, invert_contrast=config.invert_contrast
    )
    if config.threads is not None:
        set_threads(config.threads)
    return folder, particles


def drive(
    command: str, config: ParticleRun, folder: RunFolder, particles: Particles, engines: Sequence[Engine]
) -> Outcome:
    """Run engines to their ends, one after the other; the folder holds maps and a checkpoint all along."""
    images = image_names(particles)
    saved = checkpoint.load(folder.checkpoint) if config.resume else None
    if saved is not None and saved.images != images:
        raise CryogradError(
            "the particle file names other images than when the run began",
            config.particles,
            "restore it, or start a new run in another folder",
        )
    if saved is None:
        folder.create()
        folder.write_record(f"# cryograd {__version__} {command}\n\n{to_toml(config)}")
        saved = Checkpoint(0, {}, [], 0.0, images)
    began = time.monotonic() - saved.wall_seconds
    schedule = checkpoint.Schedule(config.checkpoint_seconds)
    state, log, begun = None, saved.log, False

    def save(number: int, state: Yielded) -> None:
        now = time.monotonic()
        made = Checkpoint(number, state.state_dict(), log, now - began, images)
        checkpoint.save(folder.checkpoint, made)
        engines[number].keep(state)
        schedule.took(time.monotonic() - now)

    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        progress = stack.enter_context(Progress())
        try:
            for number in range(saved.engine, len(engines)):
                engine = engines[number]
                state = engine.restore(saved.state) if number == saved.engine and saved.state else None
                # What was read is in the state now, which goes when the next is there.
                saved.state.clear()
                if state is not None:
                    folder.rewrite_log([*log, *state.history])
                states = engine.run(state, progress.reading)
                for state in states:
                    begun = True
                    folder.append_log(state.history[-1])
                    progress.show(state)
                    if schedule.due() or stop.requested:
                        save(number, state)
                    if stop.requested:
                        progress.say(f"continue with: cryograd {command} -o {folder.path} --resume")
                        stop.leave()
                    if state.iteration < state.total_iterations:
                        # Not held on to while the next is made, which takes as much memory.
                        state = None
                assert state is not None
                save(number, state)
                log = [*log, *state.history]
        except BaseException:
            # A new run that ends before its first iteration, for whatever reason, leaves nothing behind.
            if not config.resume and not begun:
                folder.discard()
            raise
    return Outcome(state, log, time.monotonic() - began)


def stage_seconds(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Time of each stage of a run."""
    stages: dict[str, float] = {}
    for row in log:
        for stage, spent in row["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + spent
    return stages


def _check_same_run(config: ParticleRun, folder: RunFolder) -> None:
    """Refuse to continue a run with other settings than it began with."""
    model = type(config)
    before = model.model_validate(read_toml(folder.record) | {"output": folder.path})
    for name, field in model.model_fields.items():
        if field.exclude or name in _FREE:
            continue
        was, now = getattr(before, name), getattr(config, name)
        if was != now:
            raise CryogradError(
                f"{name} was {was} and is now {now}", folder.record, "resume with --resume and -o alone"
            )
