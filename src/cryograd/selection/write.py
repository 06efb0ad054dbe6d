"""Some particles of a file as a STAR file of their own."""

from collections.abc import Mapping
from pathlib import Path

from cryograd.data.image_names import names_from
from cryograd.data.particles import IntArray
from cryograd.data.read import read_particles
from cryograd.data.star import write_particles_star
from cryograd.data.star_tables import particle_block
from cryograd.data.star_text import read_text, write_rows
from cryograd.errors import CryogradError
from cryograd.paths import check_output_file


def write_chosen(path: Path, source: Path, rows: IntArray) -> None:
    """Write some particles of a file.

    Of a STAR file all that is not a row of the other particles stays as it is, character for character; only
    stacks that would not be found from where the new file is get their absolute paths. A ``.cs`` file becomes
    a STAR file as after a run of it, with RELION's names and units.

    Parameters
    ----------
    path
        STAR file to write, which appears complete or not at all; its folder is made.
    source
        Particle file that can be read.
    rows
        Numbers of the particles, from 0, at least one.

    Raises
    ------
    CryogradError
        A name cannot stand in a STAR file.
    """
    if source.suffix.lower() == ".star":
        blocks = read_text(source)
        name = particle_block(blocks, source)
        write_rows(path, source, name, set(rows.tolist()), names_from(blocks[name], source, path))
    else:
        write_particles_star(path, read_particles(source, require_images=False).select(rows))


def check_star_output(output: Path, *inputs: Path, overwrite: bool) -> None:
    """Refuse an output as `check_output_file` does, and one that could not be read again by its name."""
    if output.suffix.lower() != ".star":
        raise CryogradError("the output file is no STAR file by its name", output, "end its name in .star")
    check_output_file(output, *inputs, overwrite=overwrite)


def refuse_nothing(rows: IntArray, source: Path, dropped: Mapping[str, int]) -> None:
    """Refuse to keep no particle of a file; the error says how many were dropped for what."""
    if not len(rows):
        counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in dropped.items())
        raise CryogradError("no particle would be left", source, f"ask for less; dropped were by {counts}")
