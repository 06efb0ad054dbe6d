"""A run as a sequence of parts, each of them the loop over a program of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cryograd.config import Abinitio, HalfSetRun
from cryograd.engine.loop import iterate
from cryograd.engine.run import Run
from cryograd.engine.setup import with_prior
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.images.store import ImageStore


@dataclass(frozen=True)
class Behind:
    """What the parts of a run that are done have left.

    Parameters
    ----------
    maps
        Of each of them, the map of each class, shape (w, w, w) in boxes of one extent.
    log
        Their histories, one after the other.
    symmetries
        Point groups that were looked for in a start, the best first, JSON-able; empty where none were.
    """

    maps: tuple[tuple[Tensor, ...], ...] = ()
    log: list[dict[str, Any]] = field(default_factory=list)
    symmetries: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """Where a run stands after an iteration.

    Parameters
    ----------
    part
        Number of the run's part, from 0.
    parts
        How many parts the run has.
    behind
        What the parts before have left.
    run, state
        The part as it is set up, and its state, which the next iteration changes.
    """

    part: int
    parts: int
    behind: Behind
    run: Run
    state: State

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row for each iteration of the whole run."""
        return [*self.behind.log, *self.state.history]

    @property
    def best(self) -> int:
        """Number of the class with most images; 0 where there is one."""
        return self.state.best if self.run.classes > 1 else 0

    @property
    def ends(self) -> bool:
        """Whether this is the last moment of the run's part."""
        return self.state.place == len(self.run.program)

    def saved(self) -> dict[str, Any]:
        """A copy of all that is needed to go on from here: tensors on the CPU and plain data."""
        maps = tuple(tuple(volume.cpu() for volume in volumes) for volumes in self.behind.maps)
        behind = vars(replace(self.behind, maps=maps))
        return {"part": self.part, "behind": behind, "state": self.state.state_dict()}


# What is behind when a part is done with a state.
Leave = Callable[[State, Behind], Behind]


@dataclass(frozen=True)
class Part:
    """A part of a run.

    Parameters
    ----------
    config
        Its options.
    run
        Sets it up, with what the parts before have left.
    first
        The state before its first iteration, likewise.
    leave
        What is behind when it is done.
    """

    config: Abinitio | HalfSetRun
    run: Callable[[Behind], Run]
    first: Callable[[Run, Behind], State]
    leave: Leave


def performed(
    parts: Sequence[Part],
    images: ImageStore,
    resume: Mapping[str, Any] | None,
    replayed: Sequence[Sequence[float]] | None = None,
) -> Iterator[Moment]:
    """All moments of a run's parts, from the one on that was saved.

    Raises
    ------
    CryogradError
        What was saved is no moment.
    """
    number, behind, saved = (0, Behind(), None) if resume is None else restored(resume, images.device)
    for place, part in enumerate(parts[number:], number):
        run = part.run(behind)
        state = part.first(run, behind) if saved is None else saved
        run = with_prior(run, part.config, state)
        if saved is not None and state.place == len(run.program) and part is parts[-1]:
            # Nothing is left to do but to look at it.
            yield Moment(place, len(parts), behind, run, state)
        saved = None
        for _ in iterate(run, state, replayed):
            yield Moment(place, len(parts), behind, run, state)
        if part is not parts[-1]:
            behind = part.leave(state, behind)


def restored(saved: Mapping[str, Any], device: torch.device | str = "cpu") -> tuple[int, Behind, State]:
    """The part, what is behind it, and the state that `Moment.saved` gave, on a device.

    Raises
    ------
    CryogradError
        It is something else.
    """
    try:
        number, behind = int(saved["part"]), Behind(**saved["behind"])
        return max(number, 0), behind, State.from_state_dict(saved["state"], device)
    except CryogradError:
        raise
    # Each record finds in its own way that something is none of its kind.
    except Exception as error:
        remedy = "restore the file, or start the run again in a new folder"
        raise CryogradError("it holds no state of a run", "checkpoint", remedy) from error
