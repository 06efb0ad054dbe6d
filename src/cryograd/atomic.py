"""Files that appear complete or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryograd.locks import acquired

# How the names end that `replacing` makes.
_TEMPORARY = re.compile(r"\.\d+\.tmp$")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Name to write to; when the block ends without an error, the file there takes the name ``path``.

    It is on disk before it takes the name. What a program that was killed left of the same file is removed.

    Raises
    ------
    OSError
        The file cannot be written. Whatever the system says, the error names ``path``.
    """
    # Beside the file, so that the rename stays on one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        remove_stale(path.parent, f".{path.name}.")
        with temporary.open("wb") as file:
            # Held while this process lives: what nobody holds is stale.
            acquired(file)
            yield temporary
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def remove_stale(folder: Path, start: str = ".") -> None:
    """Remove what processes that are gone left half-written in a folder, of the names that start so."""
    for name in os.listdir(folder):
        # Whoever opened a pipe would wait for its other end.
        if not (name.startswith(start) and _TEMPORARY.search(name) and (folder / name).is_file()):
            continue
        # Another process may be faster.
        with suppress(FileNotFoundError), (folder / name).open("rb") as file:
            if acquired(file):
                (folder / name).unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
