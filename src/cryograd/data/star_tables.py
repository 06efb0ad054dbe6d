"""Optics and particle tables of RELION's STAR files, 3.0 and from 3.1 on."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryograd.data.groups import keys, optics_of_rows, with_names
from cryograd.data.star_text import read_text
from cryograd.errors import CryogradError

if TYPE_CHECKING:
    import pandas as pd

# Columns that only particles of tilt series have.
_TILT_SERIES = ("rlnTomoParticleName", "rlnTomoVisibleFrames", "rlnTomoSubTomosAre2DStacks")


def read_star_tables(path: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Optics and particle tables of a RELION STAR file, in the form of RELION 3.1.

    The particle table is the one with ``rlnImageName``. A file of RELION 3.0, which has no optics table, gets
    one group for each combination of its optics columns; these leave the particle table. All values are text.

    Raises
    ------
    CryogradError
        The file is not valid STAR; it has not exactly one particle table; or its particles are of tilt
        series.
    """
    blocks = read_text(path)
    name = particle_block(blocks, path)
    _refuse_tilt_series(blocks, path)
    table = blocks[name]
    optics = blocks.get("optics", _other_optics(blocks, name))
    if optics is None:
        return optics_of_rows(table)
    groups = _without_repeats(optics)
    if "rlnOpticsGroup" not in table and len(groups) == 1 and "rlnOpticsGroup" in groups:
        table = table.assign(rlnOpticsGroup=groups["rlnOpticsGroup"].iloc[0])
    return with_names(groups), table


def _other_optics(blocks: "dict[str, pd.DataFrame]", particles: str) -> "pd.DataFrame | None":
    """The optics table of a file that calls none of its tables so."""
    others = (block for name, block in blocks.items() if name != particles and "rlnImageName" not in block)
    return next((block for block in others if "rlnOpticsGroup" in block), None)


def _without_repeats(optics: "pd.DataFrame") -> "pd.DataFrame":
    """Optics rows without those that say the same again, as joined files have them."""
    first: dict[tuple[Any, ...], int] = {}
    for place, row in enumerate(zip(*(keys(optics[name]) for name in optics.columns), strict=True)):
        first.setdefault(row, place)
    return optics.iloc[list(first.values())].reset_index(drop=True)


def _refuse_tilt_series(blocks: "dict[str, pd.DataFrame]", path: Path) -> None:
    """Refuse particles of tilt series, whose stacks hold several images of one particle."""
    for block in blocks.values():
        for name in _TILT_SERIES:
            if name in block and not np.isin(block[name].to_numpy(dtype=str), ["0", "None"]).all():
                raise CryogradError(
                    f"the particles are of tilt series ({name}), which are not supported",
                    path,
                    "give single particles, with one image each",
                )


def particle_block(blocks: "dict[str, pd.DataFrame]", path: Path) -> str:
    """Name of the particle table among the tables of a STAR file.

    Raises
    ------
    CryogradError
        No table has images, or several have and none of them is called ``particles``.
    """
    named = [name for name, block in blocks.items() if "rlnImageName" in block]
    if not named:
        raise CryogradError(
            "no table has a column rlnImageName" if blocks else "the file has no STAR table",
            path,
            "give a file of extracted particles: a file of coordinates alone has no images",
        )
    # Of several tables of images, the one called particles, or else the only one with a CTF.
    for chosen in (
        [name for name in named if name == "particles"],
        [name for name in named if "rlnDefocusU" in blocks[name]],
        named,
    ):
        if len(chosen) == 1:
            return chosen[0]
    if not any("rlnDefocusU" in blocks[name] for name in named):
        raise CryogradError(
            f"none of the tables {', '.join(named)} has the column rlnDefocusU",
            path,
            "estimate the CTF and extract the particles again",
        )
    raise CryogradError(
        f"the tables {', '.join(named)} all have a column rlnImageName",
        path,
        "call the particle table data_particles",
    )
