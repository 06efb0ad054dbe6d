"""RELION's optics and particle tables, in RELION's units, converted to `Particles`.

Every reader ends here: STAR 3.1–5 as it is, STAR 3.0 and CryoSPARC after translation to these two tables.
"""

import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cryograd.data.mrc import read_header
from cryograd.data.optics import (
    REQUIRED_COLUMNS,
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
    stacks, stack_index, image_index = _locate_images(table, source, require_images)
    rows = optics_table.to_dict("records")
    boxes = [
        _box_size(row, source, [stacks[s] for s in stack_index[optics_index == group][:1]], require_images)
        for group, row in enumerate(rows)
    ]
    optics = tuple(
        optics_from_row(
            row, f"optics group {row['rlnOpticsGroup']} of {source}", pixel_size=pixel_size, box_size=box
        )
        for row, box in zip(rows, boxes, strict=True)
    )

    def column(name: str, default: float = 0.0) -> FloatArray:
        return _numbers(table, name, source) if name in table else np.full(len(table), default)

    defocus_u = column("rlnDefocusU")
    particles = Particles(
        optics=optics,
        optics_index=optics_index,
        defocus_u=defocus_u,
        # RELION too takes a table without rlnDefocusV as free of astigmatism.
        defocus_v=column("rlnDefocusV") if "rlnDefocusV" in table else defocus_u.copy(),
        astigmatism_angle=np.deg2rad(column("rlnDefocusAngle")),
        phase_shift=np.deg2rad(column("rlnPhaseShift")),
        b_factor=column("rlnCtfBfactor"),
        scale=column("rlnCtfScalefactor", 1.0),
        rotations=_rotations(table, column),
        shifts=_shifts(table, column, optics_index, rows, optics, source),
        half_set=column("rlnRandomSubset").astype(np.int64) if "rlnRandomSubset" in table else None,
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
        "run from the project folder that its name is relative to, or correct rlnImageName",
    )


def _find_stack(name: str, source: Path) -> tuple[Path | None, list[Path]]:
    """A stack's absolute path, None where it is not found, and all places where it may be."""
    folder = Path(os.path.abspath(source)).parent
    places = [Path(os.path.abspath(base / name)) for base in (Path.cwd(), folder, *folder.parents)]
    return next((path for path in places if path.is_file()), None), list(dict.fromkeys(places))


def split_image_names(table: "pd.DataFrame", source: Path) -> tuple[list[str], IntArray, IntArray]:
    """Stack names, each particle's stack and its image number from 0, of ``rlnImageName``.

    ``N@stack`` is image N, counted from 1; a name alone is the first image of that file. RELION's suffixes
    that force a format (``stack.mrc:mrcs``) are dropped.
    """
    import pandas as pd

    parts = table["rlnImageName"].astype(str).str.rpartition("@")
    numbers = np.asarray(
        pd.to_numeric(parts[0].where(parts[1] == "@", "1"), errors="coerce"), dtype=np.float64
    )
    bad = np.flatnonzero(~(numbers >= 1) | (numbers % 1 != 0))
    if bad.size:
        raise CryogradError(
            f"rlnImageName {table['rlnImageName'].iloc[bad[0]]} has no valid image number",
            f"row {bad[0] + 1} of {source}",
            "write it as N@stack.mrcs with N from 1",
        )
    codes, names = pd.factorize(parts[2].str.replace(r":mrcs?$", "", regex=True))
    return [str(name) for name in names], codes.astype(np.int64), numbers.astype(np.int64) - 1


def _locate_images(
    table: "pd.DataFrame", source: Path, require_images: bool
) -> tuple[tuple[Path, ...], IntArray, IntArray]:
    """Paths of the stacks, and each particle's stack and image number from 0."""
    names, stack_index, image_index = split_image_names(table, source)
    if require_images:
        return tuple(resolve_stack(name, source) for name in names), stack_index, image_index
    found = tuple(_find_stack(name, source)[0] for name in names)
    folder = Path(os.path.abspath(source)).parent
    paths = tuple(path or folder / name for path, name in zip(found, names, strict=True))
    return paths, stack_index, image_index


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
    missing = [name for name in REQUIRED_COLUMNS if name not in optics_table]
    if pixel_size is None and not has_pixel_size(dict.fromkeys(optics_table.columns)):
        missing.append("rlnImagePixelSize")
    defocus = ["rlnDefocusU"]
    # One defocus is a CTF without astigmatism; two need the angle between them.
    if "rlnDefocusV" in table or "rlnDefocusAngle" in table:
        defocus += ["rlnDefocusV", "rlnDefocusAngle"]
    missing += [name for name in defocus if name not in table]
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
    if optics_table["rlnOpticsGroup"].duplicated().any():
        raise CryogradError(
            "an rlnOpticsGroup occurs twice in the optics table", source, "renumber the groups"
        )
    used = optics_table["rlnOpticsGroup"].isin(table["rlnOpticsGroup"]).to_numpy()
    optics_table = optics_table.iloc[np.flatnonzero(used)].reset_index(drop=True)
    index = pd.Index(optics_table["rlnOpticsGroup"]).get_indexer(pd.Index(table["rlnOpticsGroup"]))
    unknown = np.flatnonzero(index < 0)
    if unknown.size:
        raise CryogradError(
            f"optics group {table['rlnOpticsGroup'].iloc[unknown[0]]} is not in the optics table",
            f"row {unknown[0] + 1} of {source}",
            "add the group to the optics table",
        )
    return optics_table, index.astype(np.int64)


def _box_size(row: Mapping[Hashable, Any], where: Path, stacks: list[Path], require_images: bool) -> int:
    """Side of a group's images in pixels: ``rlnImageSize``, or else that of its first stack, or else 0."""
    if "rlnImageSize" in row:
        return box_size_of_row(row, where)
    return read_header(stacks[0]).shape[2] if require_images else 0


def _numbers(table: "pd.DataFrame", name: str, source: Path) -> FloatArray:
    """A column as finite float64, shape (n,)."""
    import pandas as pd

    values = np.asarray(pd.to_numeric(table[name], errors="coerce"), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise CryogradError(
            f"{name} is not a number: {table[name].iloc[bad[0]]}",
            f"row {bad[0] + 1} of {source}",
            "correct or remove the particle",
        )
    return values


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
    source: Path,
) -> FloatArray | None:
    """True shifts (n, 2) in Å, or None where the table has none."""
    pixel = np.array([group.pixel_size for group in optics])
    if all(name in table for name in ORIGINS_ANGSTROM):
        # The file's own pixel size, by which the offsets in pixels became Å, may have been replaced.
        own = [
            pixel_size_of_row(row, source) if has_pixel_size(row) else group.pixel_size
            for row, group in zip(rows, optics, strict=True)
        ]
        names, factor = ORIGINS_ANGSTROM, pixel / np.array(own)
    elif all(name in table for name in ORIGINS_PIXEL):
        names, factor = ORIGINS_PIXEL, pixel
    else:
        return None
    shifts = np.stack([column(name) for name in names], axis=-1) * factor[optics_index, None]
    return true_shifts(shifts, optics, optics_index)
