"""Checkpoints: what a run needs to go on from where it stopped.

A checkpoint is one file of tensors and plain data. Loading it runs no code that it might contain.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from cryograd.atomic import replacing
from cryograd.errors import CryogradError
from cryograd.version import __version__

# Share of a run's time that checkpoints may take.
SHARE = 0.05
# Raised when what is stored changes its meaning.
FORMAT = 10


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of an iteration.

    Parameters
    ----------
    moment
        What `recipe.Moment.saved` gave: tensors and plain data.
    wall_seconds
        Time that the run has taken so far.
    images
        Digest of the particles' images.
    """

    moment: dict[str, Any]
    wall_seconds: float
    images: str


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, which replaces the previous one only when it is complete on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"format": FORMAT, "version": __version__, **vars(checkpoint)}, file)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    CryogradError
        The file is absent, broken, or of another version's format.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        found = contents["format"]
    except FileNotFoundError:
        raise CryogradError("there is no checkpoint", path, "start the run again in a new folder") from None
    # torch.load raises whatever its zip and pickle readers raise.
    except Exception as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise CryogradError(
            f"the checkpoint is broken ({reason[:80]})", path, "start the run again in a new folder"
        ) from error
    if found != FORMAT:
        raise CryogradError(
            f"the checkpoint has format {found}, this is cryograd {__version__} with format {FORMAT}",
            path,
            f"continue it with cryograd {contents.get('version', 'of its time')}",
        )
    return Checkpoint(**{field.name: contents[field.name] for field in fields(Checkpoint)})


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
