"""Particle files of every supported kind, read into `Particles`."""

import math
from dataclasses import replace
from pathlib import Path

from cryograd.data.cryosparc import read_cryosparc_tables
from cryograd.data.particles import Particles
from cryograd.data.star_tables import read_star_tables
from cryograd.data.tables import particles_from_tables
from cryograd.errors import CryogradError

# Each reader gives an optics and a particle table with RELION's columns in RELION's units.
_READERS = {".star": read_star_tables, ".cs": read_cryosparc_tables}


def read_particles(
    path: Path | str,
    *,
    pixel_size: float | None = None,
    invert_contrast: bool = False,
    require_images: bool = True,
) -> Particles:
    """Read a RELION STAR (3.0, 3.1–5) or CryoSPARC .cs file.

    Parameters
    ----------
    path
        File ending in ``.star`` or ``.cs``.
    pixel_size
        Å, replaces the pixel size of the images in every optics group. Shifts keep their size in pixels:
        those given in Å were computed with the pixel size that is replaced.
    invert_contrast
        Negate the images when they are read.
    require_images
        Find and check the stacks. Without, only the metadata are read, as to compare poses.

    Raises
    ------
    CryogradError
        The file or its stacks are missing, broken or incomplete.
    """
    if pixel_size is not None and not 0.0 < pixel_size < math.inf:
        raise CryogradError(
            f"the pixel size {pixel_size} is not a length",
            path,
            "give it in Å, or leave it out for the file's",
        )
    path = Path(path)
    if not path.is_file():
        raise CryogradError("the particle file does not exist", path, "check the path")
    read_tables = _READERS.get(path.suffix.lower())
    if read_tables is None:
        raise CryogradError(
            f"particle files of type {path.suffix or 'none'} are not supported",
            path,
            "give a .star or .cs file",
        )
    optics_table, table = read_tables(path)
    particles = particles_from_tables(
        optics_table, table, path, pixel_size=pixel_size, require_images=require_images
    )
    return replace(particles, invert_contrast=invert_contrast)
