"""What all other commands are asked to do."""

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from cryograd.config.fields import Command, Device, Symmetry, json_option, option


class Simulate(Command):
    """Simulate particle images of a known molecule, with the truth recorded."""

    examples = (
        "cryograd simulate molecule.pdb -o simulated --particles 5000",
        "cryograd simulate map.mrc -o simulated --symmetry D2 --snr 0.05",
    )

    model: Path = option(..., "Atomic model (.pdb, .cif, also .gz) or map (.mrc).", positional=True)
    output: Path = option(..., "Folder for particles.star, particles.mrcs and truth.mrc.", short="-o")
    particles: PositiveInt = option(1000, "Number of images.")
    box: PositiveInt | None = option(None, "Box size in pixels. [default: 128, or the map's]", ge=16)
    pixel_size: PositiveFloat | None = option(None, "Pixel size in Å. [default: 2.8, or the map's]")
    symmetry: Symmetry = option("C1", "Point group of the model, which is turned onto RELION's axes.")
    snr: PositiveFloat = option(0.1, "Ratio of the variances of signal and noise inside the particle.")
    defocus_min: PositiveFloat = option(10000.0, "Smallest underfocus in Å.")
    defocus_max: PositiveFloat = option(25000.0, "Largest underfocus in Å.")
    astigmatism: NonNegativeFloat = option(200.0, "Largest difference of the two defocus values in Å.")
    shift_sigma: NonNegativeFloat = option(4.0, "Standard deviation in Å of the particles' offsets.")
    max_shift: NonNegativeFloat = option(10.0, "Farthest in Å that a particle is off the image centre.")
    voltage: PositiveFloat = option(300.0, "Acceleration voltage in kV.")
    spherical_aberration: NonNegativeFloat = option(2.7, "Spherical aberration in mm.")
    amplitude_contrast: NonNegativeFloat = option(0.1, "Amplitude contrast, a fraction.", lt=1.0)
    phase_shift: NonNegativeFloat = option(0.0, "Largest phase shift of a phase plate in degrees.")
    optics_groups: PositiveInt = option(1, "Number of optics groups, which the images have in turn.")
    views: Literal["uniform", "biased", "asymmetric-unit"] = option(
        "uniform", "Viewing directions: all, gathered around three views, or in one asymmetric unit."
    )
    half: Literal[1, 2] | None = option(None, "Half-set to write [default: both].")
    particle_diameter: PositiveFloat | None = option(
        None, "Diameter in Å of the circle that the SNR refers to [default: the molecule's]."
    )
    subunit: tuple[Path, ...] = option(
        (), "Atomic model that the point group repeats about the axis of the first one's own chains."
    )
    model_b_factor: NonNegativeFloat = option(0.0, "B-factor in Å² that blurs an atomic model.")
    float16: bool = option(False, "Write the images in half precision (MRC mode 12).")
    seed: NonNegativeInt = option(0, "Seed of all random choices.")
    json_output: bool = json_option()


class Inspect(Command):
    """Report what is in a particle file and what looks wrong, before computing anything."""

    examples = (
        "cryograd inspect particles.star",
        "cryograd inspect particles.cs -o inspection.html",
    )

    particles: Path = option(..., "Particle images: a RELION .star or CryoSPARC .cs file.", positional=True)
    output: Path | None = option(None, "HTML file for the report with pictures.", short="-o")
    write_clean: Path | None = option(
        None, "STAR file for the particles that have none of the faults that are found particle by particle."
    )
    overwrite: bool = option(False, "Replace output files that are there already.")
    invert_contrast: bool = option(False, "The protein is dark in the images: invert them.")
    pixel_size: PositiveFloat | None = option(
        None, "Pixel size in Å, in place of the one in the particle file."
    )
    conditioning: bool = option(
        False, "Also report what the particles' poses and CTFs mean for convergence and for missing views."
    )
    symmetry: Symmetry = option("C1", "Point group on RELION's axes, for --conditioning.")
    json_output: bool = json_option()


class Select(Command):
    """Write those particles of a file that are wanted, as a STAR file in which all else stays as it was."""

    examples = (
        'cryograd select particles.star -o thin.star --where "rlnDefocusU < 15000"',
        "cryograd select run1/particles.star -o good.star --exclude run1/junk.star",
        "cryograd select particles.star -o once.star --remove-duplicates 20",
    )

    particles: Path = option(..., "Particles: a RELION .star or CryoSPARC .cs file.", positional=True)
    output: Path | None = option(None, "STAR file for the particles that are kept.", short="-o", asked=True)
    overwrite: bool = option(False, "Replace the output file if it is there already.")
    where: str | None = option(
        None, 'Condition on columns, such as "rlnDefocusU < 2e4 and rlnClassNumber in (1, 3)".'
    )
    list: Path | None = option(None, "Keep the images that this file names: one a line, or a particle file.")
    exclude: Path | None = option(None, "Drop the images that this file names, as --list has it.")
    class_number: PositiveInt | None = option(None, "Keep the particles of this class.")
    max_junk: NonNegativeFloat | None = option(
        None, "Keep particles that are junk with at most this probability (cryogradJunkProbability).", le=1.0
    )
    half: Literal[1, 2] | None = option(None, "Keep the particles of this half-set.")
    remove_duplicates: NonNegativeFloat | None = option(
        None,
        "Keep the first of particles that have one image or were picked within so many Å; with 0 the images "
        "are not read.",
        le=1000.0,
    )
    random: PositiveInt | None = option(None, "Keep so many of what all else leaves, drawn at random.")
    seed: NonNegativeInt = option(0, "Seed of --random.")
    json_output: bool = json_option()


class Compare(Command):
    """Compare two maps after aligning them, or the poses of two particle files."""

    examples = (
        "cryograd compare run1/volume.mrc reference.mrc -o aligned.mrc",
        "cryograd compare run1/particles.star run2/particles.star --symmetry D2",
    )

    first: Path = option(..., "Map, or particle .star file.", positional=True)
    second: Path = option(..., "Map or .star file to compare with the first.", positional=True)
    symmetry: Symmetry = option("C1", "Point group of the molecule, on RELION's axes.")
    mask_radius: PositiveFloat | None = option(
        None, "Radius in Å of a soft spherical mask on both maps. [default: 0.45 of the box]"
    )
    output: Path | None = option(None, "File (.mrc) for the second map, aligned to the first.", short="-o")
    overwrite: bool = option(False, "Replace the output file if it is there already.")
    seed: NonNegativeInt = option(0, "Seed of all random choices.")
    json_output: bool = json_option()


class Demo(Command):
    """Simulate a small molecule, reconstruct it and compare it with the truth: one or two minutes."""

    examples = (
        "cryograd demo",
        "cryograd demo -o /tmp/demo --seed 7",
    )

    output: Path = option(Path("cryograd-demo"), "Folder for the results.", short="-o")
    particles: PositiveInt = option(500, "Number of images.", ge=50)
    seed: NonNegativeInt = option(0, "Seed of all random choices.")
    device: Device = option("auto", "Where to compute; 'auto' takes a GPU if there is one.")
    json_output: bool = json_option()


class Report(Command):
    """Rebuild report.html from the files of a run."""

    examples = ("cryograd report run1",)

    folder: Path = option(..., "Folder of a run.", positional=True)
    json_output: bool = json_option()
