"""RELION STAR files: particle tables in, and particles with poses out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryograd.atomic import replacing
from cryograd.data.optics import image_shifts, optics_to_row
from cryograd.data.particles import Particles
from cryograd.data.tables import ORIGINS_ANGSTROM, ORIGINS_PIXEL, split_image_names
from cryograd.errors import CryogradError
from cryograd.rotations import matrix_to_euler

if TYPE_CHECKING:
    import pandas as pd

# Columns of RELION 3.0's particle table that belong to the optics table from 3.1 on.
_OPTICS_COLUMNS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnPixelSize",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnOddZernike",
    "rlnEvenZernike",
    "rlnMagMat00",
    "rlnMagMat01",
    "rlnMagMat10",
    "rlnMagMat11",
    "rlnCtfDataAreCtfPremultiplied",
    "rlnCtfDataArePhaseFlipped",
    "rlnMicrographOriginalPixelSize",
    "rlnMtfFileName",
)
# Names that look like numbers (micrograph 007) must stay as they are.
_TEXT_COLUMNS = [
    "rlnImageName",
    "rlnImageOriginalName",
    "rlnReconstructImageName",
    "rlnMicrographName",
    "rlnMicrographMovieName",
    "rlnMicrographNameNoDW",
    "rlnGroupName",
    "rlnOpticsGroupName",
    "rlnMtfFileName",
    "rlnOddZernike",
    "rlnEvenZernike",
]
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_star(path: Path) -> "dict[str, pd.DataFrame]":
    """Read the tables of a STAR file by name, without ``data_``; a table that is no loop has one row.

    Raises
    ------
    CryogradError
        The file is not valid STAR, or a table has two columns of one name.
    """
    import pandas as pd
    import starfile

    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=_TEXT_COLUMNS)
    except (ValueError, TypeError, IndexError, KeyError, UnicodeDecodeError) as error:
        detail = str(error).strip().splitlines()
        raise CryogradError(
            f"the STAR file cannot be parsed ({detail[-1] if detail else type(error).__name__})",
            path,
            "check that each row has as many values as there are columns",
        ) from None
    tables = {
        str(name): block if isinstance(block, pd.DataFrame) else pd.DataFrame([block])
        for name, block in blocks.items()
    }
    for name, table in tables.items():
        twice = table.columns[table.columns.duplicated()]
        if len(twice):
            raise CryogradError(f"{name} has the column {twice[0]} twice", path, "remove one of the two")
    return tables


def read_star_tables(path: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Optics and particle tables of a RELION STAR file, in the form of RELION 3.1.

    The particle table is the one with ``rlnImageName``. A file of RELION 3.0, which has no optics table, gets
    one group for each combination of its optics columns; these leave the particle table.

    Raises
    ------
    CryogradError
        The file is not valid STAR, or it has not exactly one particle table.
    """
    blocks = read_star(path)
    name = _particle_block(blocks, path)
    table = blocks[name]
    optics = [
        block
        for other, block in blocks.items()
        if other == "optics" or (other != name and "rlnOpticsGroup" in block and "rlnImageName" not in block)
    ]
    if not optics:
        return _split_optics(table)
    if "rlnOpticsGroup" not in table and len(optics[0]) == 1 and "rlnOpticsGroup" in optics[0]:
        table = table.assign(rlnOpticsGroup=optics[0]["rlnOpticsGroup"].iloc[0])
    return _name_groups(optics[0]), table


def _particle_block(blocks: "dict[str, pd.DataFrame]", path: Path) -> str:
    """Name of the particle table."""
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


def _split_optics(table: "pd.DataFrame") -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Move RELION 3.0's optics columns into an optics table with a row for each combination."""
    columns = [name for name in _OPTICS_COLUMNS if name in table]
    if columns:
        group = table.groupby(columns, sort=False, dropna=False).ngroup().to_numpy(np.int64)
    else:
        group = np.zeros(len(table), dtype=np.int64)
    _, first = np.unique(group, return_index=True)
    optics = table.iloc[first][columns].reset_index(drop=True)
    optics.insert(0, "rlnOpticsGroup", np.arange(1, len(optics) + 1))
    return _name_groups(optics), table.drop(columns=columns).assign(rlnOpticsGroup=group + 1)


def _name_groups(optics: "pd.DataFrame") -> "pd.DataFrame":
    """Give optics groups without a name RELION's own: opticsGroup1 and so on."""
    if "rlnOpticsGroupName" in optics or "rlnOpticsGroup" not in optics:
        return optics
    return optics.assign(rlnOpticsGroupName=[f"opticsGroup{number}" for number in optics["rlnOpticsGroup"]])


def write_star(path: Path, blocks: "Mapping[str, pd.DataFrame | Mapping[str, float]]") -> None:
    """Write tables as the loops, and mappings as single numbers, of a STAR file.

    The file appears complete or not at all. Unlike the starfile package it holds no date, so that the same
    tables give the same bytes, and numbers in the shortest form that reads back the same.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for name, block in blocks.items():
            file.write(f"\n# version 30001\n\ndata_{name}\n\n")
            if isinstance(block, Mapping):
                file.writelines(f"_{label} {value}\n" for label, value in block.items())
            else:
                file.write("loop_\n")
                file.writelines(f"_{column} #{i}\n" for i, column in enumerate(block.columns, 1))
                _quoted(block).to_csv(file, sep="\t", header=False, index=False, na_rep="nan", quoting=3)
            file.write("\n")


def _quoted(block: "pd.DataFrame") -> "pd.DataFrame":
    """Quote the texts that are empty or hold white space."""
    from pandas.api.types import is_numeric_dtype

    texts = {}
    for name in block.columns:
        if not is_numeric_dtype(block[name]):
            text = block[name].astype(str)
            texts[name] = text.where(text.str.fullmatch(r"\S+"), '"' + text + '"')
    return block.assign(**texts)


def write_particles_star(
    path: Path,
    particles: Particles,
    rotations: ArrayLike | None = None,
    shifts: ArrayLike | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Write particles as RELION 3.1 does, with every particle and column of the input.

    Image names stay as they were where they hold from the current directory and ``path`` lies inside it, as
    in a RELION project; stacks beside ``path`` are named from its folder; all others get absolute paths.

    Parameters
    ----------
    path
        File to write; its folder is made.
    particles, rotations, shifts, columns
        As for `particle_table`.
    """
    names = _image_names(Path(path), particles)
    table = particle_table(particles, rotations, shifts, columns).assign(rlnImageName=names)
    write_star(path, {"optics": _optics_rows(particles), "particles": table})


def particle_table(
    particles: Particles,
    rotations: ArrayLike | None = None,
    shifts: ArrayLike | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
) -> "pd.DataFrame":
    """Particles under RELION's names and in RELION's units, with every column of the input.

    Images are named by the absolute paths of their stacks.

    Parameters
    ----------
    particles
        The particles.
    rotations, shifts
        Poses (n, 3, 3) and shifts (n, 2) in Å; the particles' own where None.
    columns
        Further columns by name, each of shape (n,), in RELION's units. A column of the input with the same
        name is replaced.
    """
    table = particles.table.drop(columns=list(ORIGINS_PIXEL), errors="ignore")
    stacks = [os.path.abspath(stack) for stack in particles.stacks]
    new: dict[str, NDArray] = {"rlnImageName": np.array(_numbered(particles, stacks), dtype=object)}
    new["rlnOpticsGroup"] = _group_numbers(particles)[particles.optics_index]
    new |= {name: value for name, value in _ctf_columns(particles).items() if name not in table}
    rotations = particles.rotations if rotations is None else np.asarray(rotations)
    if rotations is not None:
        new |= _angle_columns(rotations)
    shifts = particles.shifts if shifts is None else np.asarray(shifts)
    if shifts is not None:
        new |= _origin_columns(image_shifts(shifts, particles.optics, particles.optics_index))
    new |= {name: np.asarray(values) for name, values in (columns or {}).items()}
    wrong = [name for name, values in new.items() if values.shape != (len(particles),)]
    if wrong:
        raise ValueError(
            f"columns {', '.join(wrong)} do not have one value for each of {len(particles)} particles"
        )
    return table.assign(**new)


def write_poses_star(
    path: Path, particles: Particles, rotations: ArrayLike, shifts: ArrayLike, probabilities: ArrayLike
) -> None:
    """Write several poses of each particle, a row a pose, with their probabilities.

    Parameters
    ----------
    path
        File to write; its folder is made.
    particles
        The particles.
    rotations, shifts, probabilities
        Shape (n, R, 3, 3), (n, R, 2) in Å and (n, R), best first; those of no probability are left out.
    """
    import pandas as pd

    weights = np.asarray(probabilities)
    particle, rank = np.nonzero(weights > 0.0)
    origins = image_shifts(
        np.asarray(shifts)[particle, rank], particles.optics, particles.optics_index[particle]
    )
    names = np.array(_image_names(Path(path), particles), dtype=object)
    table = {"rlnImageName": names[particle]}
    table |= _angle_columns(np.asarray(rotations)[particle, rank]) | _origin_columns(origins)
    table |= {"cryogradPoseRank": rank + 1, "cryogradPoseProbability": weights[particle, rank].round(6)}
    write_star(path, {"poses": pd.DataFrame(table)})


def _angle_columns(rotations: NDArray) -> dict[str, NDArray]:
    """RELION's Euler angles in degrees of matrices (n, 3, 3)."""
    angles = np.rad2deg(matrix_to_euler(rotations))
    return {name: angles[:, i].round(6) for i, name in enumerate(_ANGLES)}


def _origin_columns(origins: NDArray) -> dict[str, NDArray]:
    """RELION's origins in Å (n, 2)."""
    return {name: origins[:, i].round(6) for i, name in enumerate(ORIGINS_ANGSTROM)}


def _group_numbers(particles: Particles) -> NDArray[np.int64]:
    """The input's ``rlnOpticsGroup`` of each group, or numbers from 1."""
    if "rlnOpticsGroup" in particles.optics_table:
        return np.asarray(particles.optics_table["rlnOpticsGroup"], dtype=np.int64)
    return np.arange(1, len(particles.optics) + 1)


def _optics_rows(particles: Particles) -> "pd.DataFrame":
    """The input's optics table, with what RELION 3.1 needs and the images' sampling as it was used."""
    import pandas as pd

    rows = pd.DataFrame(
        [optics_to_row(o, n) for o, n in zip(particles.optics, _group_numbers(particles), strict=True)]
    )
    # Where the input has a column, its own digits are kept; the pixel size may have been replaced.
    kept = particles.optics_table.drop(columns=["rlnImagePixelSize", "rlnImageSize"], errors="ignore")
    return rows.assign(**{name: kept[name].to_numpy() for name in kept.columns})


def _ctf_columns(particles: Particles) -> dict[str, NDArray]:
    """CTF columns in RELION's units, for particles that did not come with them."""
    return {
        "rlnDefocusU": particles.defocus_u,
        "rlnDefocusV": particles.defocus_v,
        "rlnDefocusAngle": np.rad2deg(particles.astigmatism_angle),
        "rlnPhaseShift": np.rad2deg(particles.phase_shift),
        "rlnCtfBfactor": particles.b_factor,
        "rlnCtfScalefactor": particles.scale,
    }


def _image_names(path: Path, particles: Particles) -> list[str]:
    """``rlnImageName`` of each particle, such that the stacks are found again."""
    names = dict(enumerate(str(stack) for stack in particles.stacks))
    if "rlnImageName" in particles.table:
        texts, codes, _ = split_image_names(particles.table, particles.source)
        first = np.unique(codes, return_index=True)[1]
        names |= dict(zip(particles.stack_index[first].tolist(), texts, strict=True))
    return _numbered(
        particles, [_stack_name(path, stack, names[i]) for i, stack in enumerate(particles.stacks)]
    )


def _numbered(particles: Particles, stacks: Sequence[str]) -> list[str]:
    """Number and stack of each particle's image, as RELION writes them."""
    pairs = zip(particles.image_index.tolist(), particles.stack_index.tolist(), strict=True)
    return [f"{image + 1:06d}@{stacks[stack]}" for image, stack in pairs]


def _stack_name(path: Path, stack: Path, name: str) -> str:
    """Name of one stack in the file to write."""
    absolute, folder = Path(os.path.abspath(stack)), Path(os.path.abspath(path)).parent
    if Path(os.path.abspath(name)) == absolute and folder.is_relative_to(Path.cwd()):
        return name
    if absolute.is_relative_to(folder):
        return str(absolute.relative_to(folder))
    return str(absolute)
