"""Read back what a run left in its folder; what an unfinished run lacks is None or empty."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd.data.mrc import read_map
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.report.half_maps import HalfMapFiles, finite_column, load_half_maps
from cryograd.report.records import Comparison, Metrics, Row, Settings, parsed
from cryograd.rotations import FloatArray
from cryograd.settings import read_settings, recorded


@dataclass(frozen=True)
class Poses:
    """Poses that a run gave its particles.

    Parameters
    ----------
    rotations, shifts
        Matrices (n, 3, 3) and origin offsets (n, 2) in Å.
    entropy, max_probability
        Of the posterior over orientations, nats and 0 to 1, shape (n,); None where the file
        has no such column.
    """

    rotations: FloatArray
    shifts: FloatArray
    entropy: FloatArray | None
    max_probability: FloatArray | None


@dataclass(frozen=True)
class RunFiles:
    """A run as its folder has it.

    Parameters
    ----------
    folder
        The folder.
    command
        That made it, as run.toml's first line has it.
    settings
        run.toml.
    log
        Rows of log.jsonl, one an iteration.
    metrics
        metrics.json, which only a finished run has.
    volume, pixel_size
        Map (L, L, L) and Å.
    classes
        Maps of all classes; none where one map was wanted.
    poses
        From particles.star, which only a finished run has.
    halves
        What a finished refinement says of its half maps; None for other runs.
    comparison, truth
        Comparison with the known truth, and the truth aligned to the map, which only a demonstration has.
    """

    folder: Path
    command: str
    settings: dict[str, Any]
    log: list[dict[str, Any]]
    metrics: dict[str, Any] | None
    volume: NDArray[np.float32]
    pixel_size: float
    classes: list[NDArray[np.float32]]
    poses: Poses | None
    halves: HalfMapFiles | None
    comparison: dict[str, Any] | None
    truth: NDArray[np.float32] | None

    @property
    def symmetry(self) -> str:
        """Point group, as it was found or asked for; those of classes that differ with commas in between."""
        asked = self.settings.get("symmetry", "C1")
        return str((self.metrics or {}).get("symmetry", "C1" if asked == "auto" else asked))

    @property
    def common_symmetry(self) -> str:
        """Point group that all classes have; C1 where they differ."""
        names = set(self.symmetry.split(","))
        return names.pop() if len(names) == 1 else "C1"


def load_run(folder: Path) -> RunFiles:
    """Read the files of a run.

    Raises
    ------
    CryogradError
        The folder holds no run, or a file of it is broken.
    """
    for name in ("run.toml", "log.jsonl", "volume.mrc"):
        if not (folder / name).is_file():
            raise CryogradError(f"the folder holds no run, {name} is missing", folder, "give a run's folder")
    volume, pixel_size = read_map(folder / "volume.mrc")
    metrics, particles = folder / "metrics.json", folder / "particles.star"
    comparison, truth = folder / "comparison.json", folder / "truth.mrc"
    command, settings = _record(folder / "run.toml")
    number = settings.get("classes", 1)
    return RunFiles(
        folder=folder,
        command=command,
        settings=settings,
        log=parsed(folder / "log.jsonl", _json_lines, list[Row]),
        metrics=_metrics(metrics, number) if metrics.is_file() else None,
        volume=volume,
        pixel_size=pixel_size,
        classes=[
            read_map(folder / f"class{k + 1}/volume.mrc")[0] for k in range(number if number > 1 else 0)
        ],
        poses=_read_poses(particles) if particles.is_file() else None,
        halves=load_half_maps(folder),
        comparison=parsed(comparison, json.loads, Comparison) if comparison.is_file() else None,
        truth=read_map(truth)[0] if truth.is_file() else None,
    )


def _record(path: Path) -> tuple[str, dict[str, Any]]:
    """Command and settings of a run."""
    command, settings = recorded(read_settings(path), path)
    parsed(path, lambda text: settings, Settings)
    return command, settings


def _metrics(path: Path, classes: int) -> dict[str, Any]:
    """What metrics.json says of a run with so many classes."""
    found = parsed(path, json.loads, Metrics)
    populations = found.get("class_populations")
    if populations is not None and len(populations) != classes:
        what = f"the file is broken ({len(populations)} populations of {classes} classes)"
        raise CryogradError(what, path, "restore the file")
    return found


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _read_poses(path: Path) -> Poses | None:
    """Poses and posterior columns of a particle file."""
    particles = read_particles(path, require_images=False)
    if particles.rotations is None or particles.shifts is None:
        return None

    def column(name: str) -> FloatArray | None:
        return finite_column(particles.table, name, path) if name in particles.table else None

    return Poses(
        particles.rotations,
        particles.shifts,
        column("cryogradPoseEntropy"),
        column("rlnMaxValueProbDistribution"),
    )
