"""What runs on particle images are asked to do."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from cryograd.config.fields import (
    Command,
    Device,
    PriorChoice,
    SolverChoice,
    Symmetries,
    Symmetry,
    json_option,
    known_symmetry_or_auto,
    option,
    several,
)
from cryograd.registry import PRIORS, SOLVERS

_PRIOR_HELP = (
    "'exponential' favours empty space and forbids negative density; of the others 'nonnegative' only "
    "forbids it, 'car' favours smooth density, 'gaussian' density near zero, 'none' nothing"
)
_SOLVER_HELP = (
    "'incremental' Newton steps, which carry other minibatches' gradients along, 'preconditioned' stochastic "
    "gradient steps, the stochastic average gradient 'sagd', 'sgd' with momentum, or all images at a time by "
    "'em' or 'projection-matching'"
)
_SYMMETRY_HELP = (
    "Point group on RELION's axes: C1, Cn, Dn, T, O, I or I1 to I4; with classes one for all, or one for "
    "each with commas between them"
)


class ParticleRun(Command):
    """What all runs on particle images share."""

    particles: Path = option(..., "Particle images: a RELION .star or CryoSPARC .cs file.", positional=True)
    output: Path | None = option(
        None, "Folder for the results; it must not hold a run already.", short="-o", asked=True
    )
    symmetry: Symmetries = option("C1", f"{_SYMMETRY_HELP}.")
    classes: PositiveInt = option(
        1, "Maps that the images are divided among, to find several molecules or to leave out what is none."
    )
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
        None,
        "Resolution in Å of the start. [default: 40, or 1/6 of the box where that is coarser; half-sets of a "
        "random start 1/9 of the box]",
    )
    invert_contrast: bool = option(False, "The protein is dark in the images: invert them.")
    force: bool = option(
        False, "Go on where the images contradict their file: dark protein, or a CTF that does not fit them."
    )
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
    prior_weight: NonNegativeFloat = option(0.9, "Strength of the prior.")
    seed: NonNegativeInt = option(0, "Seed of all random choices: the same seed gives the same map.")
    device: Device = option("auto", "Where to compute; 'auto' takes a GPU if there is one.")
    threads: PositiveInt | None = option(None, "CPU threads. [default: all cores]", le=4096)
    checkpoint_seconds: NonNegativeFloat = option(60.0, "Time between checkpoints in seconds.")
    resume: bool = option(False, "Continue the run in the output folder from its checkpoint.", recorded=False)
    json_output: bool = json_option()

    @property
    def command(self) -> str:
        """Name of the command."""
        return type(self).__name__.lower()

    @property
    def symmetries(self) -> tuple[str, ...]:
        """Point groups as they were given: one for all classes, or one for each."""
        return tuple(self.symmetry.split(","))

    @property
    def idle(self) -> dict[str, str]:
        """Settings that nothing looks at in this run, and the options that would make use of them."""
        return {} if self.proposal == "importance" else {"samples": "--proposal importance"}


class Abinitio(ParticleRun):
    """Reconstruct a map from particle images, from a random start."""

    examples = (
        "cryograd abinitio particles.star -o run1",
        "cryograd abinitio particles.star -o run2 --symmetry D2 --particle-diameter 180",
        "cryograd abinitio -o run1 --resume",
        "cryograd abinitio --config run1/run.toml -o run3 --seed 1",
    )

    max_resolution: PositiveFloat | None = option(
        None, "Finest resolution in Å to use. [default: 1/28 of the box, or Nyquist / 0.9]"
    )
    prior: PriorChoice = option(
        "exponential", f"Prior on density: {_PRIOR_HELP}. One of: {', '.join(PRIORS.names())}."
    )
    solver: SolverChoice = option(
        "preconditioned", f"How the map is changed: by {_SOLVER_HELP}. One of: {', '.join(SOLVERS.names())}."
    )
    iterations: PositiveInt | None = option(
        None, "Iterations that change the map. [default: by solver and number of images]", ge=3
    )
    starts: PositiveInt | None = option(
        None, "Random starts, of which the best is kept. [default: 4; classes have one each]"
    )
    held_out: NonNegativeInt | None = option(
        None,
        "Images that are kept apart; when their evidence under the map no longer grows at the final "
        "resolution, the run ends. [default: 100 for 'sagd' and 'sgd', else none]",
    )


class HalfSetRun(ParticleRun):
    """What all refinements in two independent halves share."""

    max_resolution: PositiveFloat | None = option(None, "Finest resolution in Å to use. [default: Nyquist's]")
    solver: SolverChoice = option(
        "incremental", f"How the maps are changed: by {_SOLVER_HELP}. One of: {', '.join(SOLVERS.names())}."
    )
    prior: PriorChoice = option(
        "nonnegative",
        f"Prior on density while poses are looked for: {_PRIOR_HELP}. The half maps of the end have none. "
        "Take 'none' for images of a map with negative density, such as simulated ones of a processed map. "
        f"One of: {', '.join(PRIORS.names())}.",
    )
    passes: PositiveFloat | None = option(
        None, "Times that every image is used to change the map. [default: until it has converged, 2 to 20]"
    )
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

    examples = (
        "cryograd refine particles.star --volume run1/volume.mrc -o run2",
        "cryograd refine particles.star --volume run1/volume.mrc -o run2 --symmetry D2 --top-poses 5",
        "cryograd refine run2/particles.star --volume run2/volume.mrc -o run3 --fixed-poses --classes 3",
    )

    volume: Annotated[tuple[Path, ...], BeforeValidator(several)] = option(
        ..., "Map to start from; with classes one map for all, or the option once for each."
    )
    second_volume: Path | None = option(
        None, "Map that the second half starts from, in the frame of the first. [default: the same]"
    )
    use_poses: bool = option(False, "Look for poses around those in the particle file first.")
    local: bool = option(False, "Look for poses around those in the particle file alone.")
    fixed_poses: bool = option(
        False, "Take the poses of the particle file as they are: to classify without alignment, in a --mask."
    )
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

    examples = (
        "cryograd reconstruct particles.star -o run1",
        "cryograd reconstruct particles.star -o run2 --symmetry D2 --particle-diameter 180",
        "cryograd reconstruct particles.star -o run3 --classes 2",
        "cryograd reconstruct -o run1 --resume",
    )

    symmetry: Annotated[str, AfterValidator(known_symmetry_or_auto)] = option(
        "C1",
        f"{_SYMMETRY_HELP}; 'auto' for the one found in the start, which is then reconstructed without any.",
    )
    starts: PositiveInt | None = option(None, "Random starts, of which the best is kept. [default: 4]")
    start_solver: SolverChoice = option("preconditioned", "As --solver, for the map from a random start.")
    start_prior: PriorChoice | None = option(
        None, "As --prior, for the map from a random start. [default: none with --prior none, or exponential]"
    )
    independent_halves: bool = option(
        False, "The halves start from random volumes of their own, and are only brought into one frame."
    )
