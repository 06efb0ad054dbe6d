"""``cryograd reconstruct``: from a random start to refined half maps, in one run and one folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryograd.cli import abinitio, refine
from cryograd.cli.folder import RunFolder
from cryograd.cli.run import Engine, begin, drive
from cryograd.config import Abinitio, ParticleRun, Reconstruct, Refine
from cryograd.data.mrc import read_map, write_map
from cryograd.data.particles import Particles
from cryograd.halves import Halves, half_sets
from cryograd.validation.alignment import align

# Fourier pixels to which the start is reconstructed. The halves begin well below, where it is sound.
_START_RADIUS = 10.0

summary = refine.summary


def run(config: Reconstruct) -> dict[str, Any]:
    """Reconstruct, refine, write all files of the run, and return its metrics."""
    folder, particles = begin(config)
    if config.independent_halves:
        first, second = half_sets(particles, config.seed)
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
    return refine.finish("reconstruct", config, config.top_poses, particles, folder, done)


def _refinement(
    config: Reconstruct, particles: Particles, folder: RunFolder, starts: list[Path]
) -> Engine[Halves]:
    """The refinement's engine, which brings the second start into the frame of the first."""
    shared = {
        name: getattr(config, name) for name in Refine.model_fields if name in type(config).model_fields
    }
    refinement = Refine(**shared, volume=starts[0], second_volume=starts[-1])
    inner = refine.engine(refinement, particles, folder)

    def states(before: Halves | None, reading: Callable[[int, int], None]) -> Iterator[Halves]:
        if before is None and len(starts) == 2:
            _bring_into_frame(*starts)
        yield from inner.run(before, reading)

    return Engine(states, inner.restore, inner.keep)


def _bring_into_frame(reference: Path, moving: Path) -> None:
    """Turn, shift and mirror one start so that it lies on the other."""
    (target, pixel), (density, moving_pixel) = read_map(reference), read_map(moving)
    write_map(moving, align(density, target, moving_pixel, pixel).volume, pixel)


def _abinitio(config: Reconstruct, particles: Particles, seed: int) -> Abinitio:
    """What the ab initio engine is asked to do: what all runs share, to a coarse resolution."""
    shared = {name: getattr(config, name) for name in ParticleRun.model_fields}
    coarse = max(particles.extent / _START_RADIUS, config.max_resolution or 0.0, particles.nyquist)
    # A search finds poses at low resolution as well as drawing them does.
    return Abinitio(
        **(shared | {"seed": seed, "max_resolution": coarse, "proposal": "search"}), starts=config.starts
    )
