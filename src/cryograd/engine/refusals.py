"""Options that have no meaning together, or no counterpart yet, and maps that have left all bounds."""

from collections.abc import Iterator

from cryograd.config import Abinitio, HalfSetRun, ParticleRun, Reconstruct, Refine
from cryograd.engine.setup import symmetries_of
from cryograd.errors import CryogradError
from cryograd.solvers import registry as solvers

# Whether a mixture is there, what it is, where, and the remedy.
Mixture = tuple[bool, str, object, str]


def refuse_mixtures(config: Abinitio | HalfSetRun, particles: int, maps: int = 0) -> None:
    """Refuse options of a run that do not go together.

    Parameters
    ----------
    config
        The options.
    particles
        How many there are.
    maps
        How many maps were given beside them.
    """
    if 2 * config.classes > particles:
        what = f"{config.classes} classes for {particles} particles"
        raise CryogradError(what, "--classes", "give a class two particles at least, or many more")
    if config.symmetry != "auto":
        symmetries_of(config)
    hard = solvers.resolved(config.solver).needs.hard
    for there, what, where, remedy in _mixtures(config, hard, maps):
        if there:
            raise CryogradError(what, where, remedy)


def refuse_infinite(finite: bool, iteration: int) -> None:
    """End a run whose maps have left all bounds."""
    if not finite:
        raise CryogradError(
            "a map is no longer finite",
            f"iteration {iteration}",
            "give a larger --minibatch, fewer --classes, or another --solver",
        )


def _mixtures(config: Abinitio | HalfSetRun, hard: bool, maps: int) -> Iterator[Mixture]:
    """All mixtures that are refused."""
    drawn = config.proposal == "importance"
    what = "projection matching takes the best pose of a search"
    yield hard and drawn, what, "--proposal importance", "use --proposal search, or --solver em"
    if isinstance(config, Refine):
        number = maps or len(config.volume)
        what = f"{number} maps for {config.classes} classes"
        yield number not in (1, config.classes), what, "--volume", "give one for all classes, or one for each"
        what = "--fixed-poses takes the poses as they are, and others are asked for"
        where = "--use-poses, --local, --relax-symmetry or --proposal importance"
        yield config.fixed_poses and (config.seeded or drawn), what, where, "leave out one or the other"
    what = "--mask does not go with --symmetry auto, which turns the start onto the axes that it finds"
    auto = config.symmetry == "auto"
    yield auto and config.mask is not None, what, config.mask, "give the point group, or leave out the mask"
    if config.classes > 1:
        for option, there, why, remedy in _with_classes(config, hard):
            yield there, f"{option} does not go with classes: {why}", "--classes", remedy


def _with_classes(config: ParticleRun, hard: bool) -> Iterator[tuple[str, bool, str, str]]:
    """What needs a single map: the option, whether it is given, why, and the remedy."""
    drawn = config.proposal == "importance"
    starts = isinstance(config, Abinitio) and config.starts is not None
    own = isinstance(config, Reconstruct) and config.independent_halves
    seeded = isinstance(config, Refine) and config.seeded
    second = isinstance(config, Refine) and config.second_volume is not None
    of_one = "what is remembered of an image's poses is of one map"
    yield "--starts", starts, "each class has one random start", "leave it out"
    yield "--proposal importance", drawn, of_one, "use --proposal search"
    best = "the best pose alone says nothing of how probable a class is"
    yield "--solver projection-matching", hard, best, "use --solver em"
    yield "--independent-halves", own, "both halves have to know which class is which", "leave it out"
    yield "--second-volume", second, "both halves have to know which class is which", "leave it out"
    yield "--symmetry auto", config.symmetry == "auto", "it is looked for in one map", "give the point groups"
    around = "--use-poses, --local and --relax-symmetry"
    yield around, seeded, of_one, "use --fixed-poses, or leave them out"
