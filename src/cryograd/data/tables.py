"""RELION's optics and particle tables, in RELION's units, converted to `Particles`.

Every reader ends here: STAR 3.1–5 as it is, STAR 3.0 and CryoSPARC after translation to these two tables.
"""

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryograd.data.groups import keys, with_constants_of_rows
from cryograd.data.image_names import locate_images
from cryograd.data.mrc import read_header
from cryograd.data.optics import (
    LARGEST_VALUE,
    REQUIRED_COLUMNS,
    SAME_PIXEL_SIZE,
    Optics,
    box_size_of_row,
    has_pixel_size,
    optics_from_row,
    pixel_size_of_row,
    true_shifts,
)
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.rotations import euler_to_matrix

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Column = Callable[..., FloatArray]

# RELION has no column for the sign of the images; CryoSPARC's must survive a trip through STAR.
SIGN_COLUMN = "cryogradImageSign"
ORIGINS_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst")
ORIGINS_PIXEL = ("rlnOriginX", "rlnOriginY")


def particles_from_tables(
    optics_table: "pd.DataFrame",
    table: "pd.DataFrame",
    source: Path,
    *,
    pixel_size: float | None = None,
    require_images: bool = True,
) -> Particles:
    """Convert RELION's optics and particle tables (3.1 form, RELION's units) to `Particles`.

    Parameters
    ----------
    optics_table, table
        Tables with RELION's column names; ``table`` refers to optics groups by ``rlnOpticsGroup``.
    source
        Where the tables come from: stacks are looked for beside it, and errors name it.
    pixel_size, require_images
        As in `cryograd.data.read.read_particles`.
    """
    if not len(table):
        raise CryogradError("the particle table has no rows", source, "give a file with particles")
    _check_columns(optics_table, table, source, pixel_size)
    optics_table, optics_index = _match_optics(optics_table, table, source)
    optics_table, optics_index = with_constants_of_rows(optics_table, table, optics_index)
    stacks, stack_index, image_index = locate_images(table, source, require_images)
    rows = optics_table.to_dict("records")
    groups = [f"optics group {row['rlnOpticsGroup']} of {source}" for row in rows]
    if pixel_size is not None:
        _refuse_mixed(rows, groups, source)
    boxes = [
        _box_size(row, source, [stacks[s] for s in stack_index[optics_index == group][:1]], require_images)
        for group, row in enumerate(rows)
    ]
    optics = tuple(
        optics_from_row(row, where, pixel_size=pixel_size, box_size=box)
        for row, where, box in zip(rows, groups, boxes, strict=True)
    )
    if pixel_size is None and "rlnImagePixelSize" in table:
        _refuse_other_pixel_size(_numbers(table, "rlnImagePixelSize", source), optics, optics_index, source)

    def column(name: str, default: float = 0.0) -> FloatArray:
        # As RELION has it, the particle row counts before the optics row.
        if name in table:
            return _numbers(table, name, source)
        if name in optics_table:
            return _numbers(optics_table, name, f"the optics table of {source}")[optics_index]
        return np.full(len(table), default)

    everywhere = {*table.columns, *optics_table.columns}
    defocus_u = column("rlnDefocusU")
    particles = Particles(
        optics=optics,
        optics_index=optics_index,
        defocus_u=defocus_u,
        # RELION too takes a table without rlnDefocusV as free of astigmatism.
        defocus_v=column("rlnDefocusV") if "rlnDefocusV" in everywhere else defocus_u.copy(),
        astigmatism_angle=np.deg2rad(column("rlnDefocusAngle")),
        phase_shift=np.deg2rad(column("rlnPhaseShift")),
        b_factor=column("rlnCtfBfactor"),
        scale=column("rlnCtfScalefactor", 1.0),
        rotations=_rotations(table, column),
        shifts=_shifts(table, column, optics_index, rows, optics),
        half_set=_half_sets(column("rlnRandomSubset"), source) if "rlnRandomSubset" in table else None,
        stacks=stacks,
        stack_index=stack_index,
        image_index=image_index,
        sign=_signs(column(SIGN_COLUMN, 1.0), source),
        table=table,
        optics_table=optics_table,
        source=source,
    )
    if require_images:
        particles.validate_stacks()
    return particles


def _check_columns(
    optics_table: "pd.DataFrame", table: "pd.DataFrame", source: Path, pixel_size: float | None
) -> None:
    """Refuse tables that lack what has no safe default, naming everything that is missing."""
    if "rlnImageName" not in table:
        raise CryogradError(
            "the particle table has no column rlnImageName",
            source,
            "extract the particles first: a file of coordinates alone has no images",
        )
    everywhere = dict.fromkeys([*optics_table.columns, *table.columns])
    missing = [name for name in REQUIRED_COLUMNS if name not in everywhere]
    if pixel_size is None and not has_pixel_size(everywhere):
        missing.append("rlnImagePixelSize")
    defocus = ["rlnDefocusU"]
    # One defocus is a CTF without astigmatism; two need the angle between them.
    if "rlnDefocusV" in everywhere or "rlnDefocusAngle" in everywhere:
        defocus += ["rlnDefocusV", "rlnDefocusAngle"]
    missing += [name for name in defocus if name not in everywhere]
    if missing:
        raise CryogradError(
            f"missing column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            source,
            "estimate the CTF and extract the particles again, or add the columns"
            if "rlnDefocusU" in missing
            else "add the columns to the file",
        )


def _match_optics(
    optics_table: "pd.DataFrame", table: "pd.DataFrame", source: Path
) -> tuple["pd.DataFrame", IntArray]:
    """Optics rows that particles use, and each particle's row."""
    import pandas as pd

    if "rlnOpticsGroup" not in table or "rlnOpticsGroup" not in optics_table:
        raise CryogradError("missing column rlnOpticsGroup", source, "add it to both tables")
    # Numbers may be written as 1 in one table and as 1.000000 in the other, and need not be numbers.
    groups, used = keys(optics_table["rlnOpticsGroup"]), keys(table["rlnOpticsGroup"])
    twice = np.flatnonzero(pd.Index(groups, dtype=object).duplicated())
    if twice.size:
        group = optics_table["rlnOpticsGroup"].iloc[twice[0]]
        raise CryogradError(
            f"optics group {group} is in the optics table twice, with different values",
            source,
            "renumber the groups: of files that are joined, each has groups of its own",
        )
    rows = np.flatnonzero(np.isin(groups.astype(str), used.astype(str)))
    optics_table = optics_table.iloc[rows].reset_index(drop=True)
    index = pd.Index(groups[rows], dtype=object).get_indexer(pd.Index(used, dtype=object))
    unknown = np.flatnonzero(index < 0)
    if unknown.size:
        raise CryogradError(
            f"optics group {table['rlnOpticsGroup'].iloc[unknown[0]]} is not in the optics table",
            f"row {unknown[0] + 1} of {source}",
            "add the group to the optics table",
        )
    return optics_table, index.astype(np.int64)


def _refuse_mixed(rows: list[dict[Hashable, Any]], groups: list[str], source: Path) -> None:
    """Refuse to replace pixel sizes by one where the groups' own differ."""
    own = {
        f"{pixel_size_of_row(row, where):.6g}"
        for row, where in zip(rows, groups, strict=True)
        if has_pixel_size(row)
    }
    if len(own) > 1:
        raise CryogradError(
            f"the optics groups have the pixel sizes {', '.join(sorted(own))} Å, which one cannot replace",
            f"--pixel-size and {source}",
            "correct rlnImagePixelSize of each group in the file",
        )


def _refuse_other_pixel_size(
    values: FloatArray, optics: tuple[Optics, ...], optics_index: IntArray, source: Path
) -> None:
    """Refuse particle rows whose pixel size is not that of their group."""
    sizes = np.array([group.pixel_size for group in optics])[optics_index]
    bad = np.flatnonzero(~np.isclose(values, sizes, rtol=SAME_PIXEL_SIZE))
    if bad.size:
        raise CryogradError(
            f"rlnImagePixelSize is {values[bad[0]]:g} Å here and {sizes[bad[0]]:g} Å in the optics table",
            f"row {bad[0] + 1} of {source}",
            "correct one of the two, or give --pixel-size",
        )


def _box_size(row: Mapping[Hashable, Any], where: Path, stacks: list[Path], require_images: bool) -> int:
    """Side of a group's images in pixels: ``rlnImageSize``, or else that of its first stack, or else 0."""
    if "rlnImageSize" in row:
        return box_size_of_row(row, where)
    return read_header(stacks[0]).shape[2] if require_images else 0


def _numbers(table: "pd.DataFrame", name: str, source: object) -> FloatArray:
    """A column as finite float64, shape (n,)."""
    import pandas as pd

    values = np.asarray(pd.to_numeric(table[name], errors="coerce"), dtype=np.float64)
    bad = np.flatnonzero(~(np.abs(values) <= LARGEST_VALUE))
    if bad.size:
        kind = "out of all range" if np.isfinite(values[bad[0]]) else "not a number"
        raise CryogradError(
            f"{name} is {kind}: {table[name].iloc[bad[0]]}",
            f"row {bad[0] + 1} of {source}",
            "correct or remove the particle",
        )
    return values


def _half_sets(values: FloatArray, source: Path) -> IntArray:
    """Numbers of the half-sets, which must be whole."""
    bad = np.flatnonzero((values % 1 != 0) | (np.abs(values) > 1e9))
    if bad.size:
        raise CryogradError(
            f"rlnRandomSubset is {values[bad[0]]:g}, not 1 or 2",
            f"row {bad[0] + 1} of {source}",
            "correct or remove the column rlnRandomSubset",
        )
    return values.astype(np.int64)


def _signs(values: FloatArray, source: Path) -> NDArray[np.float32]:
    """The images' signs, which must be 1 or −1."""
    bad = np.flatnonzero(np.abs(values) != 1)
    if bad.size:
        raise CryogradError(
            f"the image sign is {values[bad[0]]:g}, not 1 or -1 ({SIGN_COLUMN}, blob/sign)",
            f"row {bad[0] + 1} of {source}",
            "correct the sign",
        )
    return values.astype(np.float32)


def _rotations(table: "pd.DataFrame", column: Column) -> FloatArray | None:
    """Rotation matrices (n, 3, 3) where the table has the viewing direction."""
    if "rlnAngleRot" not in table or "rlnAngleTilt" not in table:
        return None
    euler = [column(name) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")]
    return euler_to_matrix(np.deg2rad(np.stack(euler, axis=-1)))


def _shifts(
    table: "pd.DataFrame",
    column: Column,
    optics_index: IntArray,
    rows: list[dict[Hashable, Any]],
    optics: tuple[Optics, ...],
) -> FloatArray | None:
    """True shifts (n, 2) in Å, or None where the table has none."""
    pixel = np.array([group.pixel_size for group in optics])
    if all(name in table for name in ORIGINS_ANGSTROM):
        # The file's own pixel size, by which the offsets in pixels became Å, may have been replaced.
        own = [
            pixel_size_of_row(row, group.name) if has_pixel_size(row) else group.pixel_size
            for row, group in zip(rows, optics, strict=True)
        ]
        names, factor = ORIGINS_ANGSTROM, pixel / np.array(own)
    elif all(name in table for name in ORIGINS_PIXEL):
        names, factor = ORIGINS_PIXEL, pixel
    else:
        return None
    shifts = np.stack([column(name) for name in names], axis=-1) * factor[optics_index, None]
    return true_shifts(shifts, optics, optics_index)
