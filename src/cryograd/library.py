"""What `import cryograd` offers: the commands as functions, with their options as keyword arguments.

They return records with arrays, and write files only where they are given a folder. An option's name is that
of the command line with ``_`` for ``-``.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cryograd import recipe
from cryograd.config import Abinitio, Compare, ParticleRun, Reconstruct, Refine, Select, Simulate
from cryograd.data.mrc import refuse_constant
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.data.star import refuse_unwritable
from cryograd.errors import CryogradError
from cryograd.examination import examined
from cryograd.inspection.finding import Finding
from cryograd.inspection.given import objections, refuse
from cryograd.inspection.sample import sampled
from cryograd.maps import Map
from cryograd.output.begin import begun
from cryograd.output.drive import drive, ended
from cryograd.output.folder import RunFolder
from cryograd.output.given import digests
from cryograd.output.products import write_result
from cryograd.output.record import check_same_run
from cryograd.recipe import Moment, Reading
from cryograd.report.build import build_report
from cryograd.results import Result
from cryograd.selection.select import Selection, selected
from cryograd.settings import spelling, validated
from cryograd.simulation.order import Simulated, simulated
from cryograd.threads import set_threads
from cryograd.validation.comparison import Comparison, compared

# Called after every iteration; what it is given goes on changing.
Callback = Callable[[Moment], None]
FilePath = str | Path


def reconstruct(
    particles: Particles | FilePath,
    *,
    output: FilePath | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> Result:
    """Reconstruct from a random start, and refine in two independent half-sets.

    Parameters
    ----------
    particles
        Particles from `read_particles`, or a file of them.
    output
        Folder for the files that the command would leave; None for none.
    callback
        Called after every iteration with the `Moment` at which the run is. Its state goes on changing.
    **options
        Those of ``cryograd reconstruct``; ``solver``, ``prior``, ``start_solver`` and ``start_prior`` may be
        objects.

    Returns
    -------
    Result
        Maps, curves, particles and metrics.

    Raises
    ------
    CryogradError
        An option, an image or a file is bad.
    """
    return _run(Reconstruct, particles, output, callback, options)


def abinitio(
    particles: Particles | FilePath,
    *,
    output: FilePath | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> Result:
    """Reconstruct a map, or one for each class, from a random start.

    Parameters
    ----------
    particles, output, callback
        As for `reconstruct`.
    **options
        Those of ``cryograd abinitio``; ``solver`` and ``prior`` may be objects.

    Returns
    -------
    Result
        Maps, particles and metrics; there are no half maps.

    Raises
    ------
    CryogradError
        An option, an image or a file is bad.
    """
    return _run(Abinitio, particles, output, callback, options)


def refine(
    particles: Particles | FilePath,
    volume: Map | FilePath | Sequence[Map | FilePath],
    *,
    output: FilePath | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> Result:
    """Refine a map, or one for each class, in two independent half-sets.

    Parameters
    ----------
    particles, output, callback
        As for `reconstruct`.
    volume
        The map to start from, in memory or a file; with classes one for all, or one for each.
    **options
        Those of ``cryograd refine``; ``solver`` and ``prior`` may be objects.

    Returns
    -------
    Result
        Maps, curves, particles and metrics.

    Raises
    ------
    CryogradError
        An option, an image or a file is bad.
    """
    given: list[Any] = list(volume) if isinstance(volume, list | tuple) else [volume]
    maps = [_checked(one) if isinstance(one, Map) else Map.read(_path(one)) for one in given]
    paths = tuple(map(_path, maps))
    return _run(Refine, particles, output, callback, {"volume": paths} | options, maps)


def simulate(model: FilePath | Map, *, output: FilePath, **options: Any) -> Simulated:
    """Simulate particle images of a known molecule.

    Parameters
    ----------
    model
        Atomic model or map.
    output
        Folder for the particles and the truth: images are files.
    **options
        Those of ``cryograd simulate``.

    Returns
    -------
    Simulated
        The particles, with their true poses, and the true map.

    Raises
    ------
    CryogradError
        An option or the model is bad.
    """
    given = _checked(model) if isinstance(model, Map) else None
    config = validated(Simulate, {"model": _path(model), "output": output} | options, "cryograd.simulate")
    return simulated(config, given)


def compare(first: Map | FilePath, second: Map | FilePath, **options: Any) -> Comparison:
    """Compare two maps after aligning the second to the first, or the poses of two particle files.

    Parameters
    ----------
    first, second
        Maps, in memory or files; or two particle files.
    **options
        Those of ``cryograd compare``.

    Returns
    -------
    Comparison
        The figures, and of maps the second one on the first.

    Raises
    ------
    CryogradError
        An option or a file is bad.
    """
    maps = [_checked(one) if isinstance(one, Map) else None for one in (first, second)]
    paths = {"first": _path(first), "second": _path(second)}
    return compared(validated(Compare, paths | options, "cryograd.compare"), *maps)


def select(particles: Particles | FilePath, **options: Any) -> Selection:
    """Choose some particles of a file, or of those in memory.

    Parameters
    ----------
    particles
        Particles from `read_particles`, or a file of them.
    **options
        Those of ``cryograd select``. Without ``output`` nothing is written.

    Returns
    -------
    Selection
        The particles that are kept, and how many each criterion dropped.

    Raises
    ------
    CryogradError
        An option or a file is bad, or no particle would be left.
    """
    given = particles if isinstance(particles, Particles) else None
    source = particles if given is None else given.source
    return selected(validated(Select, {"particles": source} | options, "cryograd.select"), given)


def run(config: ParticleRun, callback: Callback | None = None) -> Result:
    """Run what the settings of a command say, in the folder that they name.

    Parameters
    ----------
    config
        Settings of ``abinitio``, ``refine`` or ``reconstruct``.
    callback
        Called after every iteration.
    """
    return _performed(config, None, callback, ())


def finished(config: ParticleRun) -> dict[str, Any] | None:
    """The metrics of a run that is to be resumed and has nothing left to do; None for all others.

    Raises
    ------
    CryogradError
        The run in the folder is not the one that the settings say.
    """
    if not config.resume or config.output is None or not RunFolder(config.output).finished:
        return None
    folder = RunFolder(config.output)
    check_same_run(folder, config)
    return folder.read_metrics()


def _path(given: Map | FilePath) -> Path:
    """The file of a map, or what one in memory is called in messages."""
    if not isinstance(given, Map | str | Path):
        what = f"a map or a file is asked for, and this is of type {type(given).__name__}"
        raise CryogradError(what, "cryograd", "give a Map, or the name of a file")
    return (given.source or Path("in-memory.mrc")) if isinstance(given, Map) else Path(given)


def _checked(given: Map) -> Map:
    """A map in memory, of which as much is asked as of a file."""
    values = np.asarray(given.values, dtype=np.float32)
    if values.ndim != 3 or len(set(values.shape)) != 1 or not given.pixel_size > 0.0:
        what = f"a map of shape {values.shape} with a pixel size of {given.pixel_size:g} Å is no cube"
        raise CryogradError(what, _path(given), "give density of shape (L, L, L) and a pixel size in Å")
    if not np.isfinite(values).all():
        raise CryogradError("the map has NaN or infinity", _path(given), "give density that is finite")
    refuse_constant(values, _path(given))
    return replace(given, values=values, source=_path(given))


def _run(
    model: type[ParticleRun],
    particles: Particles | FilePath,
    output: FilePath | None,
    callback: Callback | None,
    options: Mapping[str, Any],
    maps: Sequence[Map] = (),
) -> Result:
    """A command with particles from memory or a file."""
    given = particles if isinstance(particles, Particles) else None
    values = {"particles": particles, "output": output, **options}
    if given is not None:
        for name in ("pixel_size", "invert_contrast"):
            if options.get(name):
                what = "the particles have been read already"
                raise CryogradError(what, spelling(name), "give it to read_particles")
        # So that the run's record repeats it.
        values |= {"particles": given.source, "invert_contrast": given.invert_contrast}
    return _performed(validated(model, values, f"cryograd.{model.__name__.lower()}"), given, callback, maps)


def _performed(
    config: ParticleRun, particles: Particles | None, callback: Callback | None, maps: Sequence[Map]
) -> Result:
    """A run of particles, which are read where there are none, in memory or in a folder."""
    _refuse_idle(config)
    if callback is not None and not callable(callback):
        what = f"a function is asked for, and this is of type {type(callback).__name__}"
        raise CryogradError(what, "callback", "give one that takes a Moment, or None")
    if config.output is None:
        return _in_memory(config, _given(config, particles, maps), callback)
    folder = RunFolder(config.output)
    with begun(folder, config):
        return _in_folder(folder, config, _given(config, particles, maps), callback)


@dataclass(frozen=True)
class _Given:
    """What a run is given, read and looked at before it begins.

    Parameters
    ----------
    particles, maps
        The particles, and the maps to start from.
    findings
        What speaks against the images: they may be out of reach when the run ends.
    """

    particles: Particles
    maps: Sequence[Map]
    findings: list[Finding]

    def moments(
        self, config: ParticleRun, saved: dict[str, Any] | None, reading: Reading
    ) -> Iterator[Moment]:
        """The moments of the run that the options say."""
        if isinstance(config, Refine):
            return recipe.refine(self.particles, config, saved, reading, volumes=self.maps)
        if isinstance(config, Reconstruct):
            return recipe.reconstruct(self.particles, config, saved, reading)
        assert isinstance(config, Abinitio)
        return recipe.abinitio(self.particles, config, saved, reading)


def _given(config: ParticleRun, particles: Particles | None, maps: Sequence[Map]) -> _Given:
    """Read what a run is given, where it is not in memory."""
    if particles is None:
        particles = read_particles(
            config.particles, pixel_size=config.pixel_size, invert_contrast=config.invert_contrast
        )
    if not len(particles):
        raise CryogradError("there are no particles", config.particles, "give some")
    if config.threads is not None:
        set_threads(config.threads)
    if isinstance(config, Refine) and not maps:
        maps = [Map.read(path) for path in config.volume]
    found = objections(particles, sampled(particles))
    # A run that goes on was let through when it began.
    if not (config.force or config.resume):
        refuse(found, particles)
    return _Given(particles, maps, [objection.finding for objection in found])


def _in_folder(folder: RunFolder, config: ParticleRun, given: _Given, callback: Callback | None) -> Result:
    """A run that leaves its files; one that was finished already is left as it is."""
    refuse_unwritable(folder.particles, given.particles)
    moments, seen = partial(given.moments, config), digests(config, given.particles, given.maps)
    if config.resume and folder.finished:
        moment, seconds = ended(folder, config, seen, moments)
        return examined(config, given.particles, moment, seconds, given.findings)
    moment, seconds = drive(folder, config, given.particles, seen, moments, callback)
    result = examined(config, given.particles, moment, seconds, given.findings)
    with folder.writing():
        # Its absence says that a run has not come to its end.
        folder.report.unlink(missing_ok=True)
        write_result(folder, result)
        build_report(folder.path)
    return result


def _in_memory(config: ParticleRun, given: _Given, callback: Callback | None) -> Result:
    """A run that writes nothing."""
    began, moment = time.monotonic(), None
    for moment in given.moments(config, None, lambda done, total: None):
        if callback is not None:
            callback(moment)
    assert moment is not None
    return examined(config, given.particles, moment, time.monotonic() - began, given.findings)


def _refuse_idle(config: ParticleRun) -> None:
    """Refuse settings that nothing looks at in a run, and the continuation of none."""
    if config.resume and config.output is None:
        raise CryogradError("there is no run to resume", spelling("resume"), "give the output folder of one")
    for name, users in config.idle.items():
        if getattr(config, name) != type(config).model_fields[name].default:
            raise CryogradError(
                f"nothing looks at it without {users}", spelling(name), "leave it out, or give both"
            )
