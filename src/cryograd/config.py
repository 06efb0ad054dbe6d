"""What a command is asked to do: plain validated data, one model a command.

Every command-line option is a field, and its description is the help text. Lengths are in Å. ``None`` means
that the value is taken from the data.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from cryograd.registry import PRIORS, SOLVERS, Registry

Device = Literal["auto", "cpu", "cuda"]


def _known_symmetry(name: str) -> str:
    """Upper-case name of a point group; the groups themselves are in `cryograd.model.symmetry`."""
    if re.fullmatch(r"[CD][1-9]\d{0,2}|[TO]|I[1-4]?", name.upper()) is None:
        raise ValueError("unknown point group; use C1, Cn, Dn, T, O, I or I1 to I4")
    return name.upper()


def _known_symmetry_or_auto(name: str) -> str:
    """As `_known_symmetry`, or ``auto``."""
    return name.lower() if name.lower() == "auto" else _known_symmetry(name)


Symmetry = Annotated[str, AfterValidator(_known_symmetry)]


def _in(registry: Registry) -> AfterValidator:
    """Check that a name is one of a registry's."""

    def known(name: str) -> str:
        if name not in registry.names():
            raise ValueError(f"unknown {registry.kind}; {registry.remedy(name)}")
        return name

    return AfterValidator(known)


SolverName = Annotated[str, _in(SOLVERS)]
PriorName = Annotated[str, _in(PRIORS)]


def option(default: Any, description: str, **settings: Any) -> Any:
    """Field with a help text; ``positional`` and ``short`` say how the command line spells it.

    Parameters
    ----------
    default
        Default value; ``...`` for none.
    description
        Help text.
    **settings
        ``positional`` (bool) and ``short`` (str, such as ``-o``) for the command line, ``recorded`` (bool)
        for whether the value belongs to the run's record, the rest for `pydantic.Field`.
    """
    spelling = {key: settings.pop(key) for key in ("positional", "short") if key in settings}
    exclude = not settings.pop("recorded", True)
    return Field(
        default, description=description, exclude=exclude, json_schema_extra=spelling or None, **settings
    )


class Command(BaseModel):
    """What all commands share: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def to_toml(config: Command) -> str:
    """A configuration as a TOML file that reads back the same, each setting below its description."""
    lines = []
    for name, field in type(config).model_fields.items():
        if field.exclude:
            continue
        value = getattr(config, name)
        lines.append(f"# {field.description}")
        # TOML has no null: what is taken from the data stays a comment.
        lines.append(f"# {name} =" if value is None else f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: str | Path | bool | int | float) -> str:
    """A value in TOML: JSON's strings, numbers and truth values are TOML's."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _json_option() -> Any:
    return option(False, "Print the result as JSON on standard output.", recorded=False)


class ParticleRun(Command):
    """What all runs on particle images share."""

    particles: Path = option(..., "Particle images: a RELION .star or CryoSPARC .cs file.", positional=True)
    output: Path = option(..., "Folder for the results; it must not hold a run already.", short="-o")
    symmetry: Symmetry = option("C1", "Point group on RELION's axes: C1, Cn, Dn, T, O, I or I1 to I4.")
    particle_diameter: PositiveFloat | None = option(
        None, "Diameter in Å of the mask around the particle. [default: 0.9 of the box]"
    )
    max_shift: NonNegativeFloat | None = option(
        None, "Farthest in Å that a particle may be off the image centre. [default: 0.2 of the box]"
    )
    max_resolution: PositiveFloat | None = option(
        None, "Finest resolution in Å to use. [default: by the command]"
    )
    start_resolution: PositiveFloat | None = option(
        None, "Resolution in Å of the start [default: 40, or 1/6 of the box where that is coarser]."
    )
    invert_contrast: bool = option(False, "The protein is dark in the images: invert them.")
    pixel_size: PositiveFloat | None = option(
        None, "Pixel size in Å, in place of the one in the particle file."
    )
    mask: Path | None = option(
        None, "Map (.mrc, 0 to 1, in the particles' box) outside which there is solvent. [default: a sphere]"
    )
    proposal: Literal["search", "importance"] = option(
        "search",
        "How poses are found: by search among the best cells of a grid, or by importance sampling from each "
        "image's posterior at its last visit.",
    )
    samples: PositiveFloat = option(
        10.0, "Poses drawn by importance sampling, as a multiple of the proposal's effective size."
    )
    minibatch: PositiveInt = option(200, "Images used in an iteration, by solvers that do not use all.")
    seed: NonNegativeInt = option(0, "Seed of all random choices: the same seed gives the same map.")
    device: Device = option("auto", "Where to compute; 'auto' takes a GPU if there is one.")
    threads: PositiveInt | None = option(None, "CPU threads. [default: all cores]")
    checkpoint_seconds: NonNegativeFloat = option(60.0, "Time between checkpoints in seconds.")
    resume: bool = option(False, "Continue the run in the output folder from its checkpoint.", recorded=False)
    json_output: bool = _json_option()

    @property
    def idle(self) -> dict[str, str]:
        """Settings that nothing looks at in this run, and the options that would make use of them."""
        return {} if self.proposal == "importance" else {"samples": "--proposal importance"}


# Priors that have no strength.
UNWEIGHTED = ("none", "nonnegative")


class Abinitio(ParticleRun):
    """Reconstruct a map from particle images, from a random start."""

    max_resolution: PositiveFloat | None = option(
        None, "Finest resolution in Å to use. [default: 1/28 of the box, or Nyquist / 0.9]"
    )
    prior: PriorName = option(
        "exponential",
        "Prior on density: 'exponential' favours empty space and forbids negative density; of the others "
        "'nonnegative' only forbids it, 'car' favours smooth density, 'gaussian' density near zero, 'none' "
        f"nothing. One of: {', '.join(PRIORS.names())}.",
    )
    prior_weight: NonNegativeFloat = option(0.9, "Strength of the prior.")
    solver: SolverName = option(
        "preconditioned",
        "How the map is changed: by 'preconditioned' stochastic gradient steps, the stochastic average "
        "gradient 'sagd', 'sgd' with momentum, or all images at a time by 'em' or 'projection-matching'. "
        f"One of: {', '.join(SOLVERS.names())}.",
    )
    iterations: PositiveInt | None = option(
        None, "Iterations that change the map. [default: by solver and number of images]", ge=3
    )
    starts: PositiveInt | None = option(
        None, "Random starts, of which the best is kept. [default: 4; classes have one each]"
    )
    classes: PositiveInt = option(
        1, "Maps that the images are divided among, to find several molecules or to leave out what is none."
    )
    held_out: NonNegativeInt | None = option(
        None,
        "Images that are kept apart; when their evidence under the map no longer grows at the final "
        "resolution, the run ends. [default: 100 for 'sagd' and 'sgd', else none]",
    )

    @property
    def idle(self) -> dict[str, str]:
        """As of all runs."""
        return super().idle | ({"prior_weight": "a --prior"} if self.prior in UNWEIGHTED else {})


class HalfSetRun(ParticleRun):
    """What all refinements in two independent halves share."""

    max_resolution: PositiveFloat | None = option(None, "Finest resolution in Å to use. [default: Nyquist's]")
    solver: SolverName = option(
        "incremental",
        "How the map is changed: by 'incremental' Newton steps, which carry other minibatches' gradients "
        "along, 'preconditioned' stochastic gradient steps, or all images at a time by 'em'. "
        f"One of: {', '.join(SOLVERS.names())}.",
    )
    nonnegative: bool = option(
        True,
        "Density is not negative while poses are looked for. The half maps of the end may be; take it back "
        "for images of a map that has negative density, such as simulated ones of a processed map.",
    )
    passes: PositiveFloat = option(2.0, "Times that every image is used to change the map.")
    refine_ctf: bool = option(
        False,
        "Also find each particle's defocus, before the last pass that changes the map and again after it; "
        "where there is but one pass, it has another.",
    )
    top_poses: NonNegativeInt = option(
        0, "Most probable poses of each particle to write to poses.star, at most 16.", le=16
    )


class Refine(HalfSetRun):
    """Refine a map in two independent halves, from a low-pass filtered start."""

    volume: Path = option(..., "Map to start from.")
    second_volume: Path | None = option(
        None, "Map that the second half starts from, in the frame of the first. [default: the same]"
    )
    use_poses: bool = option(False, "Look for poses around those in the particle file first.")
    local: bool = option(False, "Look for poses around those in the particle file alone.")
    relax_symmetry: Symmetry | None = option(
        None,
        "Look for poses around the equivalents under this point group of those in the particle file, which "
        "were refined with it, and alone there; --symmetry says what symmetry is left.",
    )
    local_angle: PositiveFloat = option(
        5.0, "Standard deviation in degrees of what is looked at around a pose of the particle file."
    )
    local_shift: PositiveFloat = option(5.0, "Standard deviation in Å, likewise.")

    @property
    def near(self) -> bool:
        """Whether poses are looked for around known ones alone."""
        return self.local or self.relax_symmetry is not None

    @property
    def seeded(self) -> bool:
        """Whether poses are looked for around known ones."""
        return self.use_poses or self.near

    @property
    def idle(self) -> dict[str, str]:
        """As of all runs; around known poses samples are drawn, too."""
        seeds = "--use-poses, --local or --relax-symmetry"
        return {} if self.seeded else super().idle | {"local_angle": seeds, "local_shift": seeds}


class Reconstruct(HalfSetRun):
    """Reconstruct a map from a random start, and refine it in two independent halves."""

    symmetry: Annotated[str, AfterValidator(_known_symmetry_or_auto)] = option(
        "C1",
        "Point group on RELION's axes: C1, Cn, Dn, T, O, I or I1 to I4; 'auto' for the one found in the "
        "start, which is then reconstructed without any.",
    )
    starts: PositiveInt = option(4, "Random starts, of which the best is kept.")
    independent_halves: bool = option(
        False, "The halves start from random volumes of their own, and are only brought into one frame."
    )


class Simulate(Command):
    """Simulate particle images of a known molecule, with the truth recorded."""

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
    json_output: bool = _json_option()


class Inspect(Command):
    """Report what is in a particle file and what looks wrong, before computing anything."""

    particles: Path = option(..., "Particle images: a RELION .star or CryoSPARC .cs file.", positional=True)
    output: Path | None = option(None, "HTML file for the report with pictures.", short="-o")
    invert_contrast: bool = option(False, "The protein is dark in the images: invert them.")
    pixel_size: PositiveFloat | None = option(
        None, "Pixel size in Å, in place of the one in the particle file."
    )
    conditioning: bool = option(
        False, "Also report what the particles' poses and CTFs mean for convergence and for missing views."
    )
    symmetry: Symmetry = option("C1", "Point group on RELION's axes, for --conditioning.")
    json_output: bool = _json_option()


class Compare(Command):
    """Compare two maps after aligning them, or the poses of two particle files."""

    first: Path = option(..., "Map, or particle .star file.", positional=True)
    second: Path = option(..., "Map or .star file to compare with the first.", positional=True)
    symmetry: Symmetry = option("C1", "Point group of the molecule, on RELION's axes.")
    mask_radius: PositiveFloat | None = option(
        None, "Radius in Å of a soft spherical mask on both maps. [default: 0.45 of the box]"
    )
    flip_hand: bool = option(False, "Also try the mirror image of the second map and keep the better.")
    output: Path | None = option(None, "File (.mrc) for the second map, aligned to the first.", short="-o")
    seed: NonNegativeInt = option(0, "Seed of all random choices.")
    json_output: bool = _json_option()


class Demo(Command):
    """Simulate a small molecule, reconstruct it and compare it with the truth: one or two minutes."""

    output: Path = option(Path("cryograd-demo"), "Folder for the results.", short="-o")
    particles: PositiveInt = option(500, "Number of images.", ge=50)
    seed: NonNegativeInt = option(0, "Seed of all random choices.")
    device: Device = option("auto", "Where to compute; 'auto' takes a GPU if there is one.")
    json_output: bool = _json_option()


class Report(Command):
    """Rebuild report.html from the files of a run."""

    folder: Path = option(..., "Folder of a run.", positional=True)
    json_output: bool = _json_option()
