import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryograd.data.mrc import read_map, write_map
from cryograd.data.read import read_particles
from cryograd.data.star import read_star, write_particles_star, write_star
from cryograd.rotations import random_rotations
from cryograd.validation.alignment import transform_map

from .conftest import tree

BOX, PIXEL_SIZE = 32, 3.0


def lumps() -> np.ndarray:
    """A chiral molecule of a few lumps."""
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - float(BOX // 2)
    density = np.zeros((BOX, BOX, BOX))
    for px, py, pz, height in (
        (6, 0, 0, 1.0),
        (0, 5, 0, 1.4),
        (0, 0, 8, 0.8),
        (-4, -4, -3, 1.2),
        (0, 0, 0, 1.0),
    ):
        density += height * np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / 2.0**2)
    return density.astype(np.float32)


def mirrored(density: np.ndarray) -> np.ndarray:
    """The density with z mirrored about the centre."""
    return np.roll(density[::-1], 1, axis=0)


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """A map, and the same turned by 40° about z and moved by (3, -2, 1) Å."""
    turn = Rotation.from_euler("z", 40.0, degrees=True).as_matrix()
    moved = transform_map(lumps(), PIXEL_SIZE, turn, np.array([3.0, -2.0, 1.0]), BOX, PIXEL_SIZE)
    write_map(tmp_path / "a.mrc", lumps(), PIXEL_SIZE)
    write_map(tmp_path / "b.mrc", moved, PIXEL_SIZE)
    return tmp_path / "a.mrc", tmp_path / "b.mrc"


def test_maps_are_compared_after_alignment(
    maps: tuple[Path, Path], cryograd_command: Callable, tmp_path: Path
) -> None:
    outcome = cryograd_command("compare", *maps, "-o", tmp_path / "aligned.mrc", "--json")
    found = json.loads(outcome.out)
    # Beyond 8 Å the lumps have no signal that interpolation would keep.
    assert found["resolution_fsc05_angstrom"] < 8.5
    assert found["resolution_fsc143_angstrom"] <= found["resolution_fsc05_angstrom"]
    assert found["correlation"] > 0.99
    assert not found["hand_flipped"]
    back = Rotation.from_matrix(found["rotation_matrix"])
    assert abs(back.as_rotvec(degrees=True)[2] + 40.0) < 0.5
    aligned, pixel_size = read_map(tmp_path / "aligned.mrc")
    assert pixel_size == pytest.approx(PIXEL_SIZE)
    assert np.corrcoef(aligned.ravel(), lumps().ravel())[0, 1] > 0.99


def test_a_map_of_the_other_hand_is_mirrored_and_said_to_be(
    maps: tuple[Path, Path], cryograd_command: Callable, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror.mrc"
    write_map(mirror, mirrored(lumps()), PIXEL_SIZE)
    found = json.loads(cryograd_command("compare", maps[0], mirror, "--json").out)
    assert found["hand_flipped"] is True
    assert found["correlation"] > 0.99
    assert "opposite hands: the second was mirrored" in cryograd_command("compare", maps[0], mirror).out


def test_a_hand_that_maps_do_not_tell_is_kept(cryograd_command: Callable, tmp_path: Path) -> None:
    """A map is nearly its own mirror image, which correlates better with what was mirrored."""
    map_of_both = lumps() + 0.9 * mirrored(lumps())
    one, other, aligned = (tmp_path / f"{name}.mrc" for name in ("one", "other", "aligned"))
    write_map(one, map_of_both, PIXEL_SIZE)
    write_map(other, mirrored(map_of_both), PIXEL_SIZE)
    said = cryograd_command("compare", one, other, "-o", aligned).out
    assert "hands that cannot be told apart: the second was not mirrored" in said
    difference = np.abs(read_map(aligned)[0] - mirrored(map_of_both)).max()
    assert difference < 0.02 < np.abs(map_of_both - mirrored(map_of_both)).max()
    assert json.loads(cryograd_command("compare", one, other, "--json").out)["hand_flipped"] is None


def test_the_text_names_the_resolution(maps: tuple[Path, Path], cryograd_command: Callable) -> None:
    text = cryograd_command("compare", *maps).out
    assert "at FSC 0.5" in text
    assert "at FSC 0.143" in text


def test_a_mask_that_does_not_fit_is_refused(
    maps: tuple[Path, Path], refused: Callable, tmp_path: Path
) -> None:
    output = tmp_path / "aligned.mrc"
    assert "does not fit the box" in refused("compare", *maps, "--mask-radius", 500, "-o", output)
    assert not output.exists()


def test_a_map_and_particles_are_refused(maps: tuple[Path, Path], simulated: Path, refused: Callable) -> None:
    assert "one file has particles" in refused("compare", maps[0], simulated / "particles.star")


def test_a_missing_map_is_refused(maps: tuple[Path, Path], refused: Callable, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert "absent.mrc" in refused("compare", maps[0], tmp_path / "absent.mrc")
    assert tree(tmp_path) == before


def moved_poses(simulated: Path, path: Path, degrees: float, shift: float) -> Path:
    """The simulated particles in reversed order, each turned in the plane and shifted by so much."""
    particles = read_particles(simulated / "particles.star")
    assert particles.rotations is not None
    assert particles.shifts is not None
    signs = np.where(np.arange(len(particles)) % 2, 1.0, -1.0)
    turns = Rotation.from_rotvec(np.deg2rad(degrees) * signs[:, None] * [0.0, 0.0, 1.0]).as_matrix()
    offsets = shift * np.stack([signs, np.zeros(len(signs))], axis=1)
    backwards = np.arange(len(particles))[::-1]
    write_particles_star(
        path,
        particles.select(backwards),
        (turns @ particles.rotations)[backwards],
        (particles.shifts + offsets)[backwards],
    )
    return path


def test_poses_are_matched_by_image(simulated: Path, cryograd_command: Callable, tmp_path: Path) -> None:
    other = moved_poses(simulated, tmp_path / "other.star", degrees=4.0, shift=3.0)
    outcome = cryograd_command("compare", simulated / "particles.star", other, "--json")
    found = json.loads(outcome.out)
    assert found["n_particles"] == 24
    assert found["median_angle_degrees"] == pytest.approx(4.0, abs=1.0)
    assert found["median_shift_angstrom"] == pytest.approx(3.0, abs=1.0)


def test_poses_of_the_other_hand_are_mirrored_and_said_to_be(
    simulated: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    other = moved_poses(simulated, tmp_path / "other.star", degrees=2.0, shift=0.0)
    particles, flip = read_particles(other), np.diag([1.0, 1.0, -1.0])
    assert particles.rotations is not None
    write_particles_star(other, particles, flip @ particles.rotations @ flip, particles.shifts)
    found = json.loads(cryograd_command("compare", simulated / "particles.star", other, "--json").out)
    assert found["hand_flipped"] is True
    assert found["median_angle_degrees"] == pytest.approx(2.0, abs=1.0)
    said = cryograd_command("compare", simulated / "particles.star", other).out
    assert "opposite hands: the second was mirrored" in said


def test_poses_of_other_particles_tell_no_hand(
    simulated: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    particles = read_particles(simulated / "particles.star")
    elsewhere = random_rotations(len(particles), np.random.default_rng(1))
    write_particles_star(tmp_path / "other.star", particles, elsewhere, particles.shifts)
    files = simulated / "particles.star", tmp_path / "other.star"
    assert json.loads(cryograd_command("compare", *files, "--json").out)["hand_flipped"] is None


def two_sessions(simulated: Path, folder: Path) -> Path:
    """A particle file in a project's folder, of two stacks of one name in folders below it."""
    tables = read_star(simulated / "particles.star")
    rows = []
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "particles.mrcs").write_bytes((simulated / "particles.mrcs").read_bytes())
        names = tables["particles"]["rlnImageName"].astype(str)
        rows.append(tables["particles"].assign(rlnImageName=names.str.replace("@", f"@{name}/")))
    write_star(folder / "both.star", tables | {"particles": pd.concat(rows)})
    return folder / "both.star"


def test_stacks_of_one_name_are_not_mixed_up(
    simulated: Path, cryograd_command: Callable, refused: Callable, tmp_path: Path
) -> None:
    """The output of a run lies in a folder of its own, and names stacks from the project's."""
    whole = two_sessions(simulated, tmp_path / "project")
    (tmp_path / "project/run").mkdir()
    written = tmp_path / "project/run/particles.star"
    written.write_bytes(whole.read_bytes())
    found = json.loads(cryograd_command("compare", whole, written, "--json").out)
    assert (found["n_particles"], found["matched_by"]) == (48, "stack and image")
    elsewhere = two_sessions(simulated, tmp_path / "copy")
    assert "no image in common" in refused("compare", whole, elsewhere)


@pytest.mark.parametrize(
    ("name", "linked", "matched_by"),
    [
        ("particles.mrc", True, "stack and image"),
        ("other.mrcs", True, "stack and image"),
        ("particles.mrc", False, "the stacks' names alone"),
        ("000123456789012345678_particles.mrc", False, "the stacks' names alone"),
    ],
)
def test_a_stack_is_known_under_another_name(
    simulated: Path, cryograd_command: Callable, tmp_path: Path, name: str, linked: bool, matched_by: str
) -> None:
    text = (simulated / "particles.star").read_text()
    (tmp_path / "again.star").write_text(text.replace("@particles.mrcs", f"@{name}"))
    if linked:
        (tmp_path / name).symlink_to(simulated / "particles.mrcs")
    files = simulated / "particles.star", tmp_path / "again.star"
    found = json.loads(cryograd_command("compare", *files, "--json").out)
    assert (found["n_particles"], found["matched_by"]) == (24, matched_by)
    assert found["median_angle_degrees"] < 0.01


def test_equal_poses_have_no_error(simulated: Path, cryograd_command: Callable) -> None:
    path = simulated / "particles.star"
    found = json.loads(cryograd_command("compare", path, path, "--json").out)
    assert found["median_angle_degrees"] < 0.01
    assert found["median_shift_angstrom"] < 0.01


def test_particles_without_poses_are_refused(simulated: Path, refused: Callable, tmp_path: Path) -> None:
    from dataclasses import replace

    particles = replace(read_particles(simulated / "particles.star"), rotations=None, shifts=None)
    particles = replace(particles, table=particles.table.filter(regex="^(?!rlnAngle|rlnOrigin)"))
    write_particles_star(tmp_path / "bare.star", particles)
    message = refused("compare", simulated / "particles.star", tmp_path / "bare.star")
    assert message.startswith("the particles have no poses")


def test_files_without_common_images_are_refused(simulated: Path, refused: Callable, tmp_path: Path) -> None:
    text = (simulated / "particles.star").read_text().replace("@particles.mrcs", "@other.mrcs")
    (tmp_path / "other.star").write_text(text)
    assert "no image in common" in refused("compare", simulated / "particles.star", tmp_path / "other.star")


def test_an_input_is_not_overwritten(maps: tuple[Path, Path], refused: Callable) -> None:
    before = maps[1].read_bytes()
    assert refused("compare", *maps, "-o", maps[1]).startswith("the output file is an input")
    assert maps[1].read_bytes() == before


def test_a_folder_is_not_an_output_file(maps: tuple[Path, Path], refused: Callable, tmp_path: Path) -> None:
    assert refused("compare", *maps, "-o", tmp_path).startswith("the output file is a folder")


def test_a_map_without_anything_is_refused(
    maps: tuple[Path, Path], refused: Callable, tmp_path: Path
) -> None:
    write_map(tmp_path / "empty.mrc", np.zeros_like(lumps()), 4.0)
    for pair in ((maps[0], tmp_path / "empty.mrc"), (tmp_path / "empty.mrc", maps[0])):
        assert refused("compare", *pair).startswith("the map is the same everywhere")


@pytest.mark.parametrize("option", ["--mask-radius", "--output"])
def test_options_of_maps_are_refused_for_poses(simulated: Path, refused: Callable, option: str) -> None:
    star = simulated / "particles.star"
    assert refused("compare", star, star, option, "20").startswith("poses have no map")
