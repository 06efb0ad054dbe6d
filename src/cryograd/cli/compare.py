"""``cryograd compare``: two maps after alignment, or the poses of two particle files."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryograd.cli.folder import check_output_file
from cryograd.config import Compare
from cryograd.data.mrc import read_map, refuse_constant, write_map
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.model.symmetry import group_matrices
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere
from cryograd.validation.pose_error import pose_error

_PARTICLES = {".star", ".cs"}
_EDGE = 0.05


def run(config: Compare) -> dict[str, Any]:
    """Compare what the two files hold."""
    files = [path.suffix.lower() in _PARTICLES for path in (config.first, config.second)]
    if all(files):
        for name in ("output", "mask_radius"):
            if getattr(config, name) is not None:
                option = f"--{name.replace('_', '-')} {getattr(config, name)}"
                raise CryogradError("poses have no map", f"cryograd compare {option}", "leave it out")
        return _compare_poses(config)
    if any(files):
        raise CryogradError(
            "one file has particles and the other a map",
            f"{config.first} and {config.second}",
            "give two maps or two particle files",
        )
    return _compare_maps(config)


def summary(result: dict[str, Any]) -> str:
    """The comparison as text."""
    hand = "the other hand" if result["hand_flipped"] else "the same hand"
    if result["kind"] == "poses":
        return "\n".join(
            [
                f"{result['n_particles']} particles in common by {result['matched_by']}, {hand}",
                f"orientations differ by {result['median_angle_degrees']:.2f}° in the median",
                f"shifts differ by {result['median_shift_angstrom']:.2f} Å in the median",
            ]
        )
    rotation = ", ".join(f"{angle:.1f}" for angle in result["rotation_vector_degrees"])
    shift = ", ".join(f"{value:.2f}" for value in result["shift_angstrom"])
    lines = [
        f"resolution {_angstrom(result['resolution_fsc05_angstrom'])} at FSC 0.5, "
        f"{_angstrom(result['resolution_fsc143_angstrom'])} at FSC 0.143",
        f"correlation {result['correlation']:.3f}",
        f"aligned with {hand}, rotation vector ({rotation})°, shift ({shift}) Å",
    ]
    return "\n".join([*lines, f"aligned map  {result['output']}"] if result["output"] else lines)


def _angstrom(resolution: float | None) -> str:
    return "none" if resolution is None else f"{resolution:.2f} Å"


def _compare_maps(config: Compare) -> dict[str, Any]:
    """Align the second map to the first, and correlate the two."""
    if config.output is not None:
        check_output_file(config.output, config.first, config.second)
    (first, pixel_size), (second, second_pixel_size) = read_map(config.first), read_map(config.second)
    refuse_constant(first, config.first)
    refuse_constant(second, config.second)
    mask = _mask(config, first.shape[0], pixel_size)
    found = align(second, first, second_pixel_size, pixel_size, flip_hand=config.flip_hand)
    if config.output is not None:
        write_map(config.output, found.volume, pixel_size)
    box = first.shape[0]
    values = fsc(first * mask, found.volume * mask)[1]
    return {
        "kind": "maps",
        "resolution_fsc05_angstrom": resolution_at(values, 0.5, box, pixel_size),
        "resolution_fsc143_angstrom": resolution_at(values, 0.143, box, pixel_size),
        "correlation": _correlation(first, found.volume, mask),
        "hand_flipped": found.hand_flipped,
        "rotation_vector_degrees": Rotation.from_matrix(found.rotation).as_rotvec(degrees=True).tolist(),
        "rotation_matrix": found.rotation.tolist(),
        "shift_angstrom": found.shift.tolist(),
        "frequencies": (np.arange(len(values)) / (box * pixel_size)).tolist(),
        "fsc": values.tolist(),
        "output": None if config.output is None else str(config.output),
    }


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
    error = pose_error(
        first.rotations[i],
        second.rotations[j],
        (zeros if first.shifts is None else first.shifts)[i],
        (zeros if second.shifts is None else second.shifts)[j],
        group_matrices(config.symmetry),
        hand_flipped=None if config.flip_hand else False,
        seed=config.seed,
    )
    return {
        "kind": "poses",
        "n_particles": len(i),
        "matched_by": matched_by,
        "symmetry": config.symmetry,
        "median_angle_degrees": float(np.rad2deg(error.median_angle)),
        "median_shift_angstrom": error.median_shift,
        "hand_flipped": error.hand_flipped,
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

    Stacks are told apart by their whole path, or, where the files share none, by their name alone if no other
    has it.
    """
    for part, matched_by in (("absolute", "stack and image"), ("name", "the stacks' names alone")):
        keys = [_keys(particles, part) for particles in (first, second)]
        shared = [key for key in keys[0] if key in keys[1]]
        if shared:
            mine, theirs = (np.array([table[key] for key in shared]) for table in keys)
            return mine, theirs, matched_by
    raise CryogradError(
        "the files have no image in common",
        f"{first.source} and {second.source}",
        "give two files with the poses of the same particles",
    )


def _keys(particles: Particles, part: str) -> dict[tuple[str, int], int]:
    """Index of each image; of several particles with the same image the first."""
    names = [str(stack.absolute()) if part == "absolute" else stack.name for stack in particles.stacks]
    owners = Counter(names[index] for index in {path: i for i, path in enumerate(particles.stacks)}.values())
    pairs = zip(particles.stack_index.tolist(), particles.image_index.tolist(), strict=True)
    keys: dict[tuple[str, int], int] = {}
    for index, (stack, image) in enumerate(pairs):
        if owners[names[stack]] == 1:
            keys.setdefault((names[stack], image), index)
    return keys
