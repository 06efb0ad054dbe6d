"""Output files and folders, checked before anything is computed."""

import os
from pathlib import Path

from cryograd.errors import CryogradError


def check_output_file(output: Path, *inputs: Path, overwrite: bool) -> None:
    """Refuse an output file that is a folder or an input, or whose folder cannot be written.

    One that is there already is refused as well, unless ``overwrite`` says that it may be replaced.
    """
    if output.is_dir():
        raise CryogradError("the output file is a folder", output, "give the name of a file")
    if any(output.exists() and path.exists() and output.samefile(path) for path in inputs):
        raise CryogradError("the output file is an input", output, "choose another name")
    if output.exists() and not overwrite:
        raise CryogradError(
            "the output file is there already", output, "choose another name, or add --overwrite"
        )
    check_writable(output.parent)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written in, without making it."""
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise CryogradError("the output folder lies in a file", nearest, "choose another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise CryogradError(
            "the output folder cannot be written", nearest, "change its permissions or choose another folder"
        )
