"""The files of a run's maps, curves and particles."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryograd.atomic import write_text
from cryograd.data.fsc_files import write_fsc_star, write_fsc_xml
from cryograd.data.star import write_particles_star, write_poses_star
from cryograd.maps import Map
from cryograd.output.folder import RunFolder
from cryograd.results import ClassResult, Result
from cryograd.validation.half_maps import Findings


def write_maps(folder: RunFolder, classes: Sequence[Mapping[str, Map]], best: int) -> None:
    """Write the maps so far: those of the best class, and of several each one's in a folder of its own.

    Parameters
    ----------
    folder
        The run's folder.
    classes
        Maps of each class by the names of their files.
    best
        Place of the one to show.
    """
    places = [(folder.path, classes[best])]
    if len(classes) > 1:
        places += [(folder.of_class(number), maps) for number, maps in enumerate(classes, 1)]
    for place, maps in places:
        place.mkdir(exist_ok=True)
        for name, volume in maps.items():
            volume.write(place / f"{name}.mrc")


def write_result(folder: RunFolder, result: Result) -> None:
    """Write all that a finished run leaves, but its record, log, checkpoint and report."""
    _write_class(folder.path, result.classes[result.best])
    if result.classes[result.best].findings is None:
        result.mask.write(folder.mask)
    if len(result.classes) > 1:
        for number, single in enumerate(result.classes, 1):
            _write_class(folder.of_class(number), single)
            if single.members.any():
                _write_particles(folder.of_class(number) / "particles.star", result, single.members)
    _write_particles(folder.particles, result)
    listed = result.columns.get("cryogradJunkProbability", np.zeros(len(result.rotations))) > 0.5
    if listed.any():
        _write_particles(folder.path / "junk.star", result, listed)
    if result.top_poses is not None:
        write_poses_star(folder.path / "poses.star", result.given, *result.top_poses)
    if result.symmetries:
        write_text(
            folder.path / "symmetry.json", json.dumps(result.symmetries, indent=2, allow_nan=False) + "\n"
        )
    folder.write_metrics(result.metrics)


def _write_particles(path: Path, result: Result, chosen: Any = None) -> None:
    """Write all particles with their poses, or those that a mask (n,) chooses."""
    rows = np.arange(len(result.rotations)) if chosen is None else np.flatnonzero(chosen)
    columns = {name: values[rows] for name, values in result.columns.items()}
    particles = result.given if chosen is None else result.given.select(rows)
    write_particles_star(path, particles, result.rotations[rows], result.shifts[rows], columns)


def _write_class(folder: Path, single: ClassResult) -> None:
    """Write the maps of a class, and the curves of its half maps."""
    folder.mkdir(exist_ok=True)
    for name, volume in single.maps.items():
        volume.write(folder / f"{name}.mrc")
    if single.findings is None:
        return
    found = single.findings.correlation
    write_fsc_star(
        folder / "fsc.star",
        found.extent,
        # The one that the resolution is read from, corrected or unmasked.
        corrected=found.correlation,
        unmasked=found.unmasked,
        masked=found.masked,
        randomised=found.randomised,
        resolution=found.resolution(),
        b_factor=single.findings.sharpened.guinier.b_factor,
        randomised_from=found.randomised_from,
    )
    write_text(folder / "anisotropy.json", json.dumps(_anisotropy(single.findings), indent=2) + "\n")
    title = "Half maps, without a mask" if found.mask_too_tight else "Half maps, in the mask"
    write_fsc_xml(folder / "fsc.xml", found.extent, found.correlation, title)


def _anisotropy(findings: Findings) -> dict[str, Any]:
    """What anisotropy.json says: least, quartiles and largest correlation of the cones by shell, and more."""
    quartiles = np.quantile(findings.conical.values, [0.0, 0.25, 0.5, 0.75, 1.0], axis=0)
    return {
        "conical_fsc_quartiles": quartiles.round(5).tolist(),
        "conical_fsc_area_ratio": findings.conical.ratio,
        "worst_direction": findings.conical.worst.round(5).tolist(),
        "sampling_compensation_factor": findings.sampling.compensation,
    }
