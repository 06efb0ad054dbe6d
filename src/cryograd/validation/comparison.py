"""Two maps after alignment, or the poses of two particle files."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.config import Compare
from cryograd.data.mrc import refuse_constant
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.maps import Map
from cryograd.model.symmetry import group_matrices
from cryograd.paths import check_output_file
from cryograd.validation.alignment import Alignment, align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from cryograd.validation.pose_error import PoseError, pose_error

_PARTICLES = {".star", ".cs"}
_EDGE = 0.05
# One hand is right where it is above the other by so much: the correlation of maps, or the part of the
# particles whose poses agree. Of maps at 30 Å it is 0.08 to 0.4, and of poses of which half are wrong 0.2 to
# 0.4; by chance it is 0.05 at most.
_CLEAR_HAND = 0.05
# CryoSPARC names what it imports with a number of many digits before the file's own name.
_IMPORTED = re.compile(r"^[0-9]{15,}_")


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Parameters
    ----------
    figures
        In numbers, JSON-able.
    aligned
        The second map on the first; None where poses were compared.
    """

    figures: dict[str, Any]
    aligned: Map | None = None


def compared(config: Compare, first: Map | None = None, second: Map | None = None) -> Comparison:
    """Compare what two files hold.

    Parameters
    ----------
    config
        Options.
    first, second
        Maps in the place of the files that the options name.
    """
    given = zip((config.first, config.second), (first, second), strict=True)
    files = [volume is None and path.suffix.lower() in _PARTICLES for path, volume in given]
    if all(files):
        for name in ("output", "mask_radius"):
            if getattr(config, name) is not None:
                option = f"--{name.replace('_', '-')} {getattr(config, name)}"
                raise CryogradError("poses have no map", f"cryograd compare {option}", "leave it out")
        return Comparison(_compare_poses(config))
    if any(files):
        raise CryogradError(
            "one file has particles and the other a map",
            f"{config.first} and {config.second}",
            "give two maps or two particle files",
        )
    if config.output is not None:
        check_output_file(config.output, config.first, config.second, overwrite=config.overwrite)
    return _compare_maps(config, first or Map.read(config.first), second or Map.read(config.second))


def _compare_maps(config: Compare, first: Map, second: Map) -> Comparison:
    """Align the second map to the first, and correlate the two."""
    refuse_constant(first.values, config.first)
    refuse_constant(second.values, config.second)
    pixel_size, box = first.pixel_size, len(first.values)
    mask = _mask(config, box, pixel_size)
    found = align(second.values, first.values, second.pixel_size, pixel_size)
    hand = _hand(found)
    if found.hand_flipped and not hand:
        found = align(second.values, first.values, second.pixel_size, pixel_size, flip_hand=False)
    aligned = Map(found.volume, pixel_size)
    if config.output is not None:
        aligned.write(config.output)
    values = fsc(first.values * mask, found.volume * mask)[1]
    figures = {
        "kind": "maps",
        "resolution_fsc05_angstrom": resolution_at(values, 0.5, box, pixel_size),
        "resolution_fsc143_angstrom": resolution_at(values, 0.143, box, pixel_size),
        "correlation": _correlation(first.values, found.volume, mask),
        "hand_flipped": hand,
        "rotation_vector_degrees": Rotation.from_matrix(found.rotation).as_rotvec(degrees=True).tolist(),
        "rotation_matrix": found.rotation.tolist(),
        "shift_angstrom": found.shift.tolist(),
        "frequencies": (np.arange(len(values)) / (box * pixel_size)).tolist(),
        "fsc": values.tolist(),
        "output": None if config.output is None else str(config.output),
    }
    return Comparison(figures, aligned)


def _hand(found: Alignment | PoseError) -> bool | None:
    """Whether the second is of the other hand; None where the two do not tell."""
    return found.hand_flipped if found.hand_margin >= _CLEAR_HAND else None


def _mask(config: Compare, box: int, pixel_size: float) -> NDArray[np.float64]:
    """Soft sphere on both maps."""
    radius = 0.45 * box if config.mask_radius is None else config.mask_radius / pixel_size
    if radius > 0.5 * box:
        raise CryogradError(
            f"a mask radius of {config.mask_radius:g} Å does not fit the box",
            f"{config.first}, {box * pixel_size:.0f} Å",
            f"give at most {0.5 * box * pixel_size:.0f}",
        )
    return soft_sphere(box, radius, _EDGE * box)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32], mask: NDArray[np.float64]) -> float:
    """Correlation of two maps inside a mask."""
    total = mask.sum()
    x, y = a - (a * mask).sum() / total, b - (b * mask).sum() / total
    norm = np.sqrt((mask * x**2).sum() * (mask * y**2).sum())
    return float((mask * x * y).sum() / norm) if norm > 0.0 else 0.0


def _compare_poses(config: Compare) -> dict[str, Any]:
    """Errors of the second file's poses against the first's."""
    first, second = _read_poses(config.first), _read_poses(config.second)
    i, j, matched_by = _common(first, second)
    assert first.rotations is not None
    assert second.rotations is not None
    zeros = np.zeros((max(len(first), len(second)), 2))
    measured = partial(
        pose_error,
        first.rotations[i],
        second.rotations[j],
        (zeros if first.shifts is None else first.shifts)[i],
        (zeros if second.shifts is None else second.shifts)[j],
        group_matrices(config.symmetry),
        seed=config.seed,
    )
    error = measured()
    hand = _hand(error)
    if error.hand_flipped and not hand:
        error = measured(hand_flipped=False)
    return {
        "kind": "poses",
        "n_particles": len(i),
        "matched_by": matched_by,
        "symmetry": config.symmetry,
        "median_angle_degrees": float(np.rad2deg(error.median_angle)),
        "median_shift_angstrom": error.median_shift,
        "hand_flipped": hand,
        "rotation_matrix": error.rotation.tolist(),
        "offset_angstrom": error.offset.tolist(),
    }


def _read_poses(path: Path) -> Particles:
    """Particles that have poses; their images need not be there."""
    particles = read_particles(path, require_images=False)
    if particles.rotations is None:
        raise CryogradError("the particles have no poses", path, "give a file with orientations")
    return particles


def _common(first: Particles, second: Particles) -> tuple[np.ndarray, np.ndarray, str]:
    """Indices of the particles that both files have, the same image of the same stack, and what tells so.

    Stacks are told apart by the files that their paths lead to, or, where the particle files share none, by
    their names alone if no other has it.
    """
    for name_of, matched_by in (
        (os.path.realpath, "stack and image"),
        (_bare_name, "the stacks' names alone"),
    ):
        keys = [_keys(particles, name_of) for particles in (first, second)]
        shared = [key for key in keys[0] if key in keys[1]]
        if shared:
            mine, theirs = (np.array([table[key] for key in shared]) for table in keys)
            return mine, theirs, matched_by
    raise CryogradError(
        "the files have no image in common",
        f"{first.source} and {second.source}",
        "give two files with the poses of the same particles",
    )


def _bare_name(stack: Path) -> str:
    """Name of a stack without what programs change in it: CryoSPARC's number of an import, and the ending."""
    return _IMPORTED.sub("", stack.stem)


def _keys(particles: Particles, name_of: Callable[[Path], str]) -> dict[tuple[str, int], int]:
    """Index of each image; of several particles with the same image the first."""
    names = [name_of(stack) for stack in particles.stacks]
    files = {os.path.realpath(stack): i for i, stack in enumerate(particles.stacks)}
    owners = Counter(names[index] for index in files.values())
    pairs = zip(particles.stack_index.tolist(), particles.image_index.tolist(), strict=True)
    keys: dict[tuple[str, int], int] = {}
    for index, (stack, image) in enumerate(pairs):
        if owners[names[stack]] == 1:
            keys.setdefault((names[stack], image), index)
    return keys
