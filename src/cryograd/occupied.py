"""A folder that one command at a time writes to, and the trace of a command that was killed there."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cryograd.errors import CryogradError
from cryograd.locks import acquired

LOCK = ".cryograd-lock"


def left_behind(folder: Path) -> bool:
    """Whether a command is at work in a folder, or was killed there: all others take their lock away."""
    return (folder / LOCK).exists()


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Hold a folder, which exists, while the block runs.

    Raises
    ------
    CryogradError
        Another command holds it, or no file can be made there.
    """
    path = folder / LOCK
    file = _locked(folder, path)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(folder: Path, path: Path) -> IO[str]:
    """The open file of the lock."""
    while True:
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise CryogradError(
                f"the output folder cannot be written ({error.strerror or error})",
                folder,
                "choose another folder",
            ) from None
        free = acquired(file)
        if free is False:
            file.seek(0)
            owner = file.read(200).strip() or "of another process"
            file.close()
            raise CryogradError(
                f"another run is at work in the folder ({owner})",
                folder,
                "wait until it has ended, or choose another folder",
            )
        # The last owner took the file away between our opening and locking it.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    if free is None:
        print(
            f"note: the file system of {folder} knows no locks: see to it that no other run works there",
            file=sys.stderr,
        )
    return file
