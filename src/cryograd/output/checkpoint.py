"""Checkpoints: what a run needs to go on from where it stopped.

A checkpoint is one file: a line that says of which run it is, and tensors and plain data, of which the line
has the checksum. Loading it runs no code that it might contain.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch

from cryograd.atomic import replacing
from cryograd.errors import CryogradError
from cryograd.output.header import FORMAT, REMEDY, Header, parsed_line, refuse_damaged
from cryograd.version import __version__

# Share of a run's time that checkpoints may take.
SHARE = 0.05


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of an iteration.

    Parameters
    ----------
    moment
        What `recipe.Moment.saved` gave: tensors and plain data.
    wall_seconds
        Time that the run has taken so far.
    record
        ``run.toml`` as the run began with it.
    given
        What `given.digests` gave of the particles and maps that the run began with.
    """

    moment: dict[str, Any]
    wall_seconds: float
    record: str
    given: dict[str, str]


class _Digested:
    """A file to write to that adds up the checksum of what is written.

    Parameters
    ----------
    file
        The file.
    start
        What the checksum begins with.
    """

    def __init__(self, file: IO[bytes], start: bytes) -> None:
        self.file, self.digest = file, hashlib.sha256(start)
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write, and keep the error if that fails: torch would tell of another."""
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing is held back here."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, which replaces the previous one only when it is complete on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = Header(FORMAT, __version__, checkpoint.record)
    contents = {name: value for name, value in vars(checkpoint).items() if name != "record"}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.line())
        digested = _Digested(file, header.line())
        try:
            torch.save(contents, digested)  # pyright: ignore[reportArgumentType]
        except RuntimeError:
            if digested.error is not None:
                raise digested.error from None
            raise
        file.seek(0)
        file.write(replace(header, checksum=digested.digest.hexdigest()).line())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    CryogradError
        The file is absent, broken, or of another version's format.
    """
    try:
        with path.open("rb") as file:
            header = parsed_line(file, path)
            refuse_damaged(file, header, path)
            contents = torch.load(file, map_location="cpu", weights_only=True)
            return _sound(Checkpoint(record=header.record, **contents))
    except CryogradError:
        raise
    except FileNotFoundError:
        raise CryogradError("there is no checkpoint", path, "start the run again in a new folder") from None
    # torch.load raises whatever its zip and pickle readers raise.
    except Exception as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise CryogradError(f"the checkpoint is broken ({reason[:80]})", path, REMEDY) from error


def _sound(found: Checkpoint) -> Checkpoint:
    """What was read, if it is of the types that were written."""
    texts = [*found.given, *found.given.values()]
    if not isinstance(found.moment, dict) or not all(isinstance(text, str) for text in texts):
        raise TypeError("it holds something else than a run")
    return replace(found, wall_seconds=float(found.wall_seconds))


@dataclass
class Schedule:
    """When to save: at once, and then whenever some time has passed, large checkpoints less often.

    Parameters
    ----------
    seconds
        Time between checkpoints; 0 for one after every iteration, however long it takes.
    clock
        Monotonic time in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _last: float | None = field(default=None, init=False)
    _took: float = field(default=0.0, init=False)

    def due(self) -> bool:
        """Whether to save now; the caller then saves."""
        now = self.clock()
        wait = max(self.seconds, self._took / SHARE) if self.seconds else 0.0
        if self._last is not None and now - self._last < wait:
            return False
        self._last = now
        return True

    def took(self, seconds: float) -> None:
        """Tell how long saving took."""
        self._took = seconds
