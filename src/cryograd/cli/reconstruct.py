"""``cryograd reconstruct``: from a random start to refined half maps, in one run and one folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryograd import refine as refinement
from cryograd.atomic import write_text
from cryograd.cli import abinitio, refine
from cryograd.cli.folder import RunFolder
from cryograd.cli.run import Engine, begin, drive
from cryograd.config import Abinitio, HalfSetRun, ParticleRun, Reconstruct, Refine
from cryograd.data.mrc import read_map, write_map
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.half_sets import check
from cryograd.halves import Halves
from cryograd.validation.alignment import align
from cryograd.validation.symmetry_search import find_symmetry, onto_axes

# Fourier pixels to which the start is reconstructed, and to which where its symmetry is to be found. The
# halves begin well below, where it is sound.
_START_RADIUS, _SYMMETRY_RADIUS = 10.0, 16.0

summary = refine.summary


def run(config: Reconstruct) -> dict[str, Any]:
    """Reconstruct, refine, write all files of the run, and return its metrics."""
    if config.mask is not None and config.symmetry == "auto":
        raise CryogradError(
            "--mask does not go with --symmetry auto, which turns the start onto the axes that it finds",
            config.mask,
            "give the point group, or leave out the mask",
        )
    folder, particles = begin(config)
    # What only the refinement would refuse, after the ab initio stage.
    (first, second), _ = check(particles, config)
    if config.independent_halves:
        paths = [folder.path / "abinitio1.mrc", folder.path / "abinitio2.mrc"]
        parts = [(particles.select(first), config.seed), (particles.select(second), config.seed + 1)]
    else:
        paths, parts = [folder.path / "abinitio.mrc"], [(particles, config.seed)]
    starts = [
        abinitio.engine(_abinitio(config, part, seed), part, path)
        for (part, seed), path in zip(parts, paths, strict=True)
    ]
    last = _refinement(config, particles, folder, paths)
    done = drive("reconstruct", config, folder, particles, [*starts, last])
    return refine.finish("reconstruct", config, particles, folder, done)


def _abinitio(config: Reconstruct, particles: Particles, seed: int) -> Abinitio:
    """What the ab initio engine is asked to do: what all runs share, to a coarse resolution."""
    search = config.symmetry == "auto"
    radius = _SYMMETRY_RADIUS if search else _START_RADIUS
    finest = max(particles.extent / radius, config.max_resolution or 0.0, particles.nyquist)
    # The halves may begin where this ends, or beyond.
    coarser = config.start_resolution is not None and config.start_resolution > finest
    changed = {
        "seed": seed,
        "max_resolution": finest,
        "start_resolution": config.start_resolution if coarser else None,
        "symmetry": "C1" if search else config.symmetry,
        # At low resolution a search finds poses as well as drawing them does.
        "proposal": "search",
        "prior": "exponential" if config.nonnegative else "none",
    }
    shared = {name: getattr(config, name) for name in ParticleRun.model_fields}
    return Abinitio(**(shared | changed), starts=config.starts)


def _refinement(
    config: Reconstruct, particles: Particles, folder: RunFolder, starts: list[Path]
) -> Engine[Halves]:
    """The refinement's engine, which brings the starts into one frame, on the axes of their symmetry."""
    shared = {name: getattr(config, name) for name in HalfSetRun.model_fields}

    def states(before: Halves | None, reading: Callable[[int, int], None]) -> Iterator[Halves]:
        if before is None:
            _refuse_empty(starts, particles)
            symmetry = _symmetry(config, folder, starts[0])
            for moving in starts[1:]:
                _bring_into_frame(starts[0], moving)
        else:
            symmetry = before.states[0].symmetry
        names = {"symmetry": symmetry, "volume": starts[0], "second_volume": starts[-1]}
        # Not yielded from: the state before would stay in memory here.
        return refinement.refine(particles, Refine(**(shared | names)), before, reading)

    return refine.engine(states, particles, folder)


def _refuse_empty(starts: list[Path], particles: Particles) -> None:
    """Refuse starts without density: the nonnegative map of images of noise."""
    for start in starts:
        if not read_map(start)[0].any():
            raise CryogradError(
                "no particle was found in the images, the start is empty",
                particles.source,
                "check the contrast (--invert-contrast), the CTFs and the picks",
            )


def _symmetry(config: Reconstruct, folder: RunFolder, start: Path) -> str:
    """The point group that was given, or the one found in the start, which is turned onto its axes."""
    if config.symmetry != "auto":
        return config.symmetry
    density, pixel = read_map(start)
    found = find_symmetry(density, pixel, len(density) * pixel / _SYMMETRY_RADIUS)
    rows = [
        {
            "name": group.name,
            "supported": bool(group.supported),
            "contrast": float(group.contrast),
            "correlation": float(group.correlation),
            "z": float(group.z),
        }
        for group in found
    ]
    write_text(folder.path / "symmetry.json", json.dumps(rows, indent=2, allow_nan=False) + "\n")
    write_map(start, onto_axes(density, pixel, found[0]), pixel)
    return found[0].name


def _bring_into_frame(reference: Path, moving: Path) -> None:
    """Turn, shift and mirror one start so that it lies on the other."""
    (target, pixel), (density, moving_pixel) = read_map(reference), read_map(moving)
    write_map(moving, align(density, target, moving_pixel, pixel).volume, pixel)
