"""Names of images in particle tables: their numbers, and where their stacks are."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryograd.data.mrc import read_header
from cryograd.errors import CryogradError

if TYPE_CHECKING:
    import pandas as pd

IntArray = NDArray[np.int64]

# RELION's suffixes that force a format.
_FORMAT = re.compile(r":mrcs?$")
# No stack has as many images.
_MOST_DIGITS = 9


def resolve_stack(name: str, source: Path) -> Path:
    """Absolute path of a stack that a particle file names.

    As RELION does, a relative name is taken from the current working directory, RELION's project folder.
    Where it is not there, it is looked for from the particle file's folder and then from each folder above
    it, so that a file deep inside a project can be given from anywhere.

    Raises
    ------
    CryogradError
        It is in none of these places, which the error names.
    """
    found, tried = _find_stack(name, source)
    if found is not None:
        return found
    # The folders above the first few say nothing to the user.
    listed = ", ".join(str(path) for path in tried[:4])
    raise CryogradError(
        f"the image stack {name} does not exist",
        f"named in {source} (tried {listed}{' and the folders above' if len(tried) > 4 else ''})",
        "run from the project folder that its name is relative to, or correct its name in the file",
    )


def _find_stack(name: str, source: Path) -> tuple[Path | None, list[Path]]:
    """A stack's absolute path, None where it is not found, and all places where it may be."""
    folder = Path(os.path.abspath(source)).parent
    places = [Path(os.path.abspath(base / name)) for base in (Path.cwd(), folder, *folder.parents)]
    # Unlike the method of a path this takes a name that is too long as one of no file.
    return next((path for path in places if os.path.isfile(path)), None), list(dict.fromkeys(places))


def split_image_names(table: "pd.DataFrame", source: Path) -> tuple[list[str], IntArray, IntArray]:
    """Stack names, each particle's stack and its image number from 0, of ``rlnImageName``.

    ``N@stack`` is image N, counted from 1; N is what stands before the first ``@`` if that are digits. All
    else is a name alone, whose number is −1. RELION's suffixes that force a format (``stack.mrc:mrcs``) are
    dropped.
    """
    places: dict[str, int] = {}
    stacks, numbers = np.empty(len(table), dtype=np.int64), np.empty(len(table), dtype=np.int64)
    for row, image in enumerate(table["rlnImageName"]):
        number, name = _split(str(image))
        if number == 0:
            raise CryogradError(
                f"rlnImageName {image} has no valid image number",
                f"row {row + 1} of {source}",
                "write it as N@stack.mrcs with N from 1",
            )
        stacks[row] = places.setdefault(_FORMAT.sub("", name), len(places))
        numbers[row] = -1 if number is None else number - 1
    return list(places), stacks, numbers


def names_from(table: "pd.DataFrame", source: Path, other: Path) -> dict[int, str]:
    """Names of those images whose stacks another particle file would not find under the names that they have.

    Parameters
    ----------
    table
        Particles with ``rlnImageName``.
    source
        The file that they are from.
    other
        The file that will name them; it need not be there.

    Returns
    -------
    dict
        By the number of the particle, from 0: the name with the absolute path of the stack. A stack that is
        not found from ``source`` either keeps its name.
    """
    names, stacks, _ = split_image_names(table, source)
    moved: dict[int, Path] = {}
    for place, name in enumerate(names):
        stack, again = _find_stack(name, source)[0], _find_stack(name, other)[0]
        if stack is not None and (again is None or not os.path.samefile(stack, again)):
            moved[place] = stack
    rows = np.flatnonzero(np.isin(stacks, list(moved))).tolist()
    return {row: _with_stack(str(table["rlnImageName"].iloc[row]), moved[stacks[row]]) for row in rows}


def _with_stack(image: str, stack: Path) -> str:
    """The name of the same image in a stack of another name."""
    number = None if _split(image)[0] is None else image.partition("@")[0]
    return str(stack) if number is None else f"{number}@{stack}"


def _split(image: str) -> tuple[int | None, str]:
    """Number and stack of an image name: None where there is no number, and 0 where it is no good."""
    number, at, name = image.partition("@")
    if not at or not (number.isascii() and number.isdigit()):
        return None, image
    return (int(number) if len(number) <= _MOST_DIGITS else 0), name


def locate_images(
    table: "pd.DataFrame", source: Path, require_images: bool
) -> tuple[tuple[Path, ...], IntArray, IntArray]:
    """Paths of the stacks, and each particle's stack and image number from 0.

    A name without a number is that of a file with one image. Where the images are required this is checked.
    """
    names, stack_index, image_index = split_image_names(table, source)
    alone = np.unique(stack_index[image_index < 0])
    image_index = np.maximum(image_index, 0)
    if not require_images:
        found = (_find_stack(name, source)[0] for name in names)
        folder = Path(os.path.abspath(source)).parent
        paths = tuple(path or folder / name for path, name in zip(found, names, strict=True))
        return paths, stack_index, image_index
    stacks = tuple(resolve_stack(name, source) for name in names)
    for stack in alone:
        _refuse_many(stacks[stack], names[stack], source)
    return stacks, stack_index, image_index


def _refuse_many(path: Path, name: str, source: Path) -> None:
    """Refuse a name without a number whose file has more images than the one that is meant."""
    sections = read_header(path).shape[0]
    if sections > 1:
        raise CryogradError(
            f"rlnImageName {name} has no image number, and its file has {sections} sections",
            source,
            "write it as N@stack.mrcs; tilt series and subtomograms are not supported",
        )
