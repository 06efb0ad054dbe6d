"""Particles as RELION STAR files, with their poses; and STAR files as tables of numbers."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryograd.data.image_names import split_image_names
from cryograd.data.optics import agrees_with_detector, image_shifts, optics_to_row
from cryograd.data.particles import Particles
from cryograd.data.star_text import read_text, star_lines, text_column, write_star
from cryograd.data.tables import ORIGINS_ANGSTROM, ORIGINS_PIXEL
from cryograd.rotations import matrix_to_euler

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "as_numbers",
    "particle_table",
    "read_star",
    "refuse_unwritable",
    "write_particles_star",
    "write_poses_star",
    "write_star",
]

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def read_star(path: Path) -> "dict[str, pd.DataFrame]":
    """Read the tables of a STAR file by name, to compute with: see `read_text` and `as_numbers`."""
    return {name: as_numbers(table) for name, table in read_text(path).items()}


def as_numbers(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table in which columns that hold nothing but numbers are numbers, but for names such as 007."""
    return table.assign(**{str(name): _as_numbers(str(name), table[name]) for name in table.columns})


def _as_numbers(name: str, column: Any) -> Any:
    """A column as numbers, if all its values are some and it has no names."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    whole = np.asarray(pd.notna(numbers)) | np.asarray(column.isin(["nan", "NaN"]))
    return numbers if whole.all() and not name.endswith("Name") else column


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
    write_star(path, _particle_blocks(Path(path), particles, rotations, shifts, columns))


def refuse_unwritable(path: Path, particles: Particles) -> None:
    """Refuse particles that `write_particles_star` could not write, before anything is computed of them.

    Raises
    ------
    CryogradError
        A name cannot stand in a STAR file.
    """
    for _ in star_lines(_particle_blocks(Path(path), particles), Path(path)):
        pass


def _particle_blocks(path: Path, particles: Particles, *poses_and_columns: Any) -> "dict[str, pd.DataFrame]":
    """Tables of a particle file."""
    table = particle_table(particles, *poses_and_columns)
    names = text_column(_image_names(path, particles)).set_axis(table.index)
    return {"optics": _optics_rows(particles), "particles": table.assign(rlnImageName=names)}


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
    table = particles.table
    stacks = [os.path.abspath(stack) for stack in particles.stacks]
    new: dict[str, Any] = {"rlnImageName": text_column(_numbered(particles, stacks)).set_axis(table.index)}
    groups = _group_numbers(particles).iloc[particles.optics_index]
    new["rlnOpticsGroup"] = groups.set_axis(table.index)
    new |= {name: value for name, value in _ctf_columns(particles).items() if name not in table}
    rotations = particles.rotations if rotations is None else np.asarray(rotations)
    if rotations is not None:
        new |= _angle_columns(rotations)
    shifts = particles.shifts if shifts is None else np.asarray(shifts)
    if shifts is not None:
        # Those in pixels would say something else.
        table = table.drop(columns=list(ORIGINS_PIXEL), errors="ignore")
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
    names = _image_names(Path(path), particles)
    table: dict[str, Any] = {"rlnImageName": text_column(names[i] for i in particle)}
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


def _group_numbers(particles: Particles) -> "pd.Series":
    """The input's ``rlnOpticsGroup`` of each group, or numbers from 1."""
    import pandas as pd

    if "rlnOpticsGroup" in particles.optics_table:
        return pd.Series(particles.optics_table["rlnOpticsGroup"])
    return pd.Series(range(1, len(particles.optics) + 1))


def _optics_rows(particles: Particles) -> "pd.DataFrame":
    """The input's optics table, with what RELION 3.1 needs and the images' sampling as it was used."""
    import pandas as pd

    groups = zip(particles.optics, _group_numbers(particles), strict=True)
    rows = pd.DataFrame([optics_to_row(optics, number) for optics, number in groups], dtype=object)
    # Where the input has a column, its own digits are kept; the pixel size may have been replaced.
    kept = particles.optics_table.drop(columns=["rlnImagePixelSize", "rlnImageSize"], errors="ignore")
    if not all(map(agrees_with_detector, kept.to_dict("records"), rows["rlnImagePixelSize"])):
        kept = kept.drop(columns=["rlnDetectorPixelSize", "rlnMagnification"])
    return rows.assign(**{name: kept[name].set_axis(rows.index) for name in kept.columns})


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
