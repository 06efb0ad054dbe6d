"""The first line of a checkpoint: which run it is of, and a checksum of all that follows.

It is read without loading the checkpoint. The settings in it are those that a run is resumed with.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

from cryograd.errors import CryogradError
from cryograd.version import __version__

# Raised when what is stored changes its meaning.
FORMAT = 12
REMEDY = "restore the file, or start the run again in a new folder"
# Longer lines are no header.
_LONGEST = 1 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Header:
    """Of which run a checkpoint is.

    Parameters
    ----------
    format, version
        Number of the format, and the version of the program that wrote it.
    record
        ``run.toml`` as the run began with it.
    checksum
        SHA-256 of what follows the line, and of the line with zeros in this place.
    """

    format: int
    version: str
    record: str
    checksum: str = "0" * 64

    @property
    def sound(self) -> bool:
        """Whether all is of the type that it should have, which a file may not hold to."""
        return all(type(getattr(self, one.name)) is one.type for one in fields(self))

    def line(self) -> bytes:
        """The line, whose length does not depend on the checksum."""
        return json.dumps(vars(self)).encode() + b"\n"


def read_header(path: Path) -> Header:
    """Read the first line of a checkpoint.

    Raises
    ------
    CryogradError
        The file is absent, no checkpoint, or of another version's format.
    """
    try:
        with path.open("rb") as file:
            return parsed_line(file, path)
    except FileNotFoundError:
        raise CryogradError("there is no checkpoint", path, "start the run again in a new folder") from None
    except OSError as error:
        raise CryogradError(f"the checkpoint cannot be read ({error.strerror})", path, REMEDY) from None


def parsed_line(file: IO[bytes], path: Path) -> Header:
    """The header at the start of an open checkpoint, which is then at what follows it."""
    line = file.readline(_LONGEST)
    try:
        found = Header(**json.loads(line))
    # Earlier formats have no line at all; the rest is what bad JSON and other keys raise.
    except (ValueError, TypeError, RecursionError):
        found = None
    if found is None or not found.sound:
        what = "the checkpoint is broken, or of another version: it does not say which run it is of"
        raise CryogradError(what, path, REMEDY)
    if found.format != FORMAT:
        raise CryogradError(
            f"the checkpoint has format {found.format}, this is cryograd {__version__} with format {FORMAT}",
            path,
            f"continue it with cryograd {found.version}",
        )
    return found


def refuse_damaged(file: IO[bytes], header: Header, path: Path) -> None:
    """Refuse a checkpoint whose bytes are not those that were written; it is then where it was."""
    start, digest = file.tell(), hashlib.sha256(Header(header.format, header.version, header.record).line())
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    if digest.hexdigest() != header.checksum:
        raise CryogradError("the checkpoint is broken: its checksum does not fit", path, REMEDY)
    file.seek(start)
