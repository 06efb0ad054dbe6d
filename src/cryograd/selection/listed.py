"""Lists of images: files with one image name a line, and particle files that are taken as such."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryograd.data.cryosparc import read_cryosparc_tables
from cryograd.data.image_names import locate_images, split_image_names
from cryograd.data.particles import Particles
from cryograd.data.star_tables import particle_block
from cryograd.data.star_text import read_text, text_column
from cryograd.errors import CryogradError
from cryograd.selection.conditions import BoolArray

if TYPE_CHECKING:
    import pandas as pd

# A stack, by its path or as it is written, and the number of an image in it.
Image = tuple[str, int]


@dataclass(frozen=True)
class Listed:
    """What a list says of some particles.

    Parameters
    ----------
    members
        Which of the particles it names, shape (n,).
    unknown
        Names in it that no particle has.
    """

    members: BoolArray
    unknown: tuple[str, ...]


def listed(path: Path, particles: Particles) -> Listed:
    """Look for the images of a list among particles.

    Parameters
    ----------
    path
        A ``.star`` or ``.cs`` file with image names, or a text file with one such as ``000012@stack.mrcs`` a
        line. A stack is found as one of a particle file is, and has to be the same file under whatever name.
        Where it is not found, it has to be written as that of the particle is.
    particles
        The particles.

    Raises
    ------
    CryogradError
        It cannot be read, names nothing, or nothing that the particles are.
    """
    table = _table(path)
    given, own = _images(table, path, named=False), _images(particles.table, particles.source, named=True)
    known = {image for images in own for image in images}
    meant = {image for images in given for image in images}
    members = np.array([any(image in meant for image in images) for images in own])
    names = list(map(str, table["rlnImageName"]))
    unknown = tuple(
        name for name, images in zip(names, given, strict=True) if not any(one in known for one in images)
    )
    if not members.any():
        raise CryogradError(
            f"none of its {len(table)} images, such as {names[0]}, is one of {particles.source}",
            path,
            "give names as they are in the particle file, or from where the same stacks are found",
        )
    return Listed(members, unknown)


def _table(path: Path) -> "pd.DataFrame":
    """The names in a list, as the column ``rlnImageName``."""
    if not path.is_file():
        raise CryogradError("the list of images does not exist", path, "check the path")
    kind = path.suffix.lower()
    if kind == ".star":
        blocks = read_text(path)
        table = blocks[particle_block(blocks, path)]
    elif kind == ".cs":
        table = read_cryosparc_tables(path)[1]
    else:
        table = text_column(_names(path)).to_frame("rlnImageName")
    if not len(table):
        raise CryogradError(
            "the list names no image", path, "give one name a line, such as 000012@stack.mrcs"
        )
    return table


def _names(path: Path) -> Iterator[str]:
    """Lines of a text file that are neither empty nor remarks."""
    content = path.read_bytes()
    if b"\0" in content:
        raise CryogradError("the list is not text", path, "give one image name a line, or a STAR file")
    for line in content.decode("utf-8-sig", "surrogateescape").split("\n"):
        name = line.strip()
        if name and not name.startswith("#"):
            yield name


def _images(table: "pd.DataFrame", source: Path, named: bool) -> list[tuple[Image, ...]]:
    """What each row's image may be known by: its stack's path, and if ``named`` or not found its name too."""
    names, stack_index, image_index = split_image_names(table, source)
    paths = locate_images(table, source, require_images=False)[0]
    known_by = [
        {os.path.realpath(path)} | ({name} if named or not path.is_file() else set())
        for path, name in zip(paths, names, strict=True)
    ]
    pairs = zip(stack_index.tolist(), np.maximum(image_index, 0).tolist(), strict=True)
    return [tuple((stack, image) for stack in known_by[place]) for place, image in pairs]
