import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.data.star import write_particles_star, write_star
from cryograd.rotations import angular_distance, random_rotations
from stacks import write_stack

Maker = Callable[..., Path]
COLUMNS = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]


def relion_30(folder: Path, shared_data: Path) -> Path:
    """RELION's 3.0 sample with images of noise, which the sample itself lacks."""
    images = np.random.default_rng(0).random((17, 6, 6)).astype(np.float32)
    write_stack(folder / "sample.mrcs", images, 1.0)
    path = folder / "sample_particles_relion30.star"
    shutil.copyfile(shared_data / "metadata" / "star" / path.name, path)
    return path


def test_relion_30_becomes_31(tmp_path: Path, shared_data: Path) -> None:
    path = relion_30(tmp_path, shared_data)
    particles = read_particles(path)
    original = starfile.read(path)
    pixel = 5.0e4 / 37369.207031
    assert particles.optics[0].pixel_size == pytest.approx(pixel)
    assert particles.optics[0].box_size == 6
    shifts = original[["rlnOriginX", "rlnOriginY"]].to_numpy() * pixel
    assert np.abs(shifts).max() > 0.1
    np.testing.assert_allclose(particles.shifts, shifts)
    write_particles_star(tmp_path / "out" / "new.star", particles)
    blocks = starfile.read(tmp_path / "out" / "new.star")
    assert list(blocks) == ["optics", "particles"]
    columns = set(blocks["particles"])
    moved = {
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnMagnification",
        "rlnDetectorPixelSize",
    }
    assert moved <= set(blocks["optics"])
    assert set(original) - moved - {"rlnOriginX", "rlnOriginY"} <= columns
    assert not columns & (moved | {"rlnOriginX", "rlnOriginY"})
    for name in ("rlnLogLikeliContribution", "rlnCoordinateX", "rlnMicrographName", "rlnDefocusU"):
        assert blocks["particles"][name].tolist() == original[name].tolist()
    assert_same(read_particles(tmp_path / "out" / "new.star"), particles)


def assert_same(a: Particles, b: Particles) -> None:
    """The same particles, to the digits that a STAR file keeps."""
    assert [replace(o, name="") for o in a.optics] == [replace(o, name="") for o in b.optics]
    for name in (
        "optics_index",
        "defocus_u",
        "defocus_v",
        "astigmatism_angle",
        "phase_shift",
        "b_factor",
        "scale",
    ):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(a.image_index, b.image_index)
    assert [a.stacks[i] for i in a.stack_index] == [b.stacks[i] for i in b.stack_index]
    assert a.shifts is not None
    assert b.shifts is not None
    np.testing.assert_allclose(a.shifts, b.shifts, atol=1e-5)
    assert a.rotations is not None
    assert b.rotations is not None
    assert angular_distance(a.rotations, b.rotations).max() < np.deg2rad(1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4))
def test_poses_survive_a_round_trip(tmp_path_factory: pytest.TempPathFactory, seed: int, n: int) -> None:
    folder = tmp_path_factory.mktemp("trip")
    rng = np.random.default_rng(seed)
    write_stack(folder / "s.mrcs", rng.random((n, 4, 4)).astype(np.float32), 1.0)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [3],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnAmplitudeContrast": [0.07],
            "rlnImagePixelSize": [1.1],
        }
    )
    table = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1}@s.mrcs" for i in range(n)],
            "rlnOpticsGroup": 3,
            "rlnDefocusU": rng.uniform(5e3, 3e4, n),
        }
    )
    write_star(folder / "in.star", {"optics": optics, "particles": table})
    particles = read_particles(folder / "in.star")
    np.testing.assert_array_equal(particles.defocus_u, table["rlnDefocusU"])
    rotations, shifts = random_rotations(n, rng), rng.normal(0, 20, (n, 2))
    weight = rng.random(n)
    columns = {"rlnMaxValueProbDistribution": weight, "rlnRandomSubset": np.arange(n) % 2 + 1}
    write_particles_star(folder / "out.star", particles, rotations, shifts, columns)
    again = read_particles(folder / "out.star")
    assert_same(again, replace(particles, rotations=rotations, shifts=shifts))
    np.testing.assert_array_equal(again.table["rlnMaxValueProbDistribution"].astype(float), weight)
    np.testing.assert_array_equal(again.half_set, np.arange(n) % 2 + 1)


def test_written_angles_are_relions(make_star: Maker, tmp_path: Path) -> None:
    particles = read_particles(make_star()).select([0])
    rotation = Rotation.from_euler("ZYZ", [-100, 75, 170], degrees=True).as_matrix().T
    write_particles_star(tmp_path / "out.star", particles, rotation[None], [[1.5, -2.25]])
    row = starfile.read(tmp_path / "out.star")["particles"].iloc[0]
    np.testing.assert_allclose(
        [row.rlnAngleRot, row.rlnAngleTilt, row.rlnAnglePsi], [-100, 75, 170], atol=1e-6
    )
    assert (row.rlnOriginXAngst, row.rlnOriginYAngst) == (1.5, -2.25)


def test_every_row_and_column_is_carried(make_star: Maker, tmp_path: Path) -> None:
    columns = [
        "rlnImageName",
        "rlnOpticsGroup",
        "rlnDefocusU",
        "rlnGroupName",
        "rlnCoordinateX",
        "rlnOriginX",
        "rlnOriginY",
    ]
    rows = [f'{i}@a.mrcs 1 1234.56789{i} "group {i}" 1e-07 1 2' for i in (4, 1, 3)]
    path = make_star(columns, rows)
    write_particles_star(tmp_path / "out.star", read_particles(path), columns={"cryogradScore": [1, 2, 3]})
    table = starfile.read(tmp_path / "out.star")["particles"]
    assert table["rlnImageName"].tolist() == [f"00000{i}@a.mrcs" for i in (4, 1, 3)]
    assert table["rlnGroupName"].tolist() == ["group 4", "group 1", "group 3"]
    assert table["rlnDefocusU"].tolist() == [1234.567894, 1234.567891, 1234.567893]
    assert table["rlnCoordinateX"].tolist() == [1e-7] * 3
    assert table["cryogradScore"].tolist() == [1, 2, 3]
    assert table["rlnOriginXAngst"].tolist() == [1.5] * 3
    assert not {"rlnOriginX", "rlnOriginY"} & set(table)
    with pytest.raises(ValueError, match="cryogradScore"):
        write_particles_star(tmp_path / "out.star", read_particles(path), columns={"cryogradScore": [1]})


@pytest.mark.parametrize("columns", [COLUMNS, [*COLUMNS, "rlnCtfScalefactor"], COLUMNS[:3]])
def test_refined_ctfs_survive_a_round_trip(make_star: Maker, tmp_path: Path, columns: list[str]) -> None:
    values = ["9000", "30", "0.7"][: len(columns) - 3]
    rows = [" ".join([f"{i}@a.mrcs 1 {10000 + i}", *values]) for i in (1, 2, 3, 4)]
    particles = read_particles(make_star(columns, rows))
    rng = np.random.default_rng(2)
    change, scale = rng.normal(0.0, 300.0, 4), rng.uniform(0.5, 2.0, 4)
    refined = particles.with_ctf(particles.defocus_u + change, particles.defocus_v + change, scale)
    write_particles_star(tmp_path / "out.star", refined)
    again = read_particles(tmp_path / "out.star")
    np.testing.assert_array_equal(again.defocus_u, refined.defocus_u)
    np.testing.assert_array_equal(again.defocus_v, refined.defocus_v)
    np.testing.assert_array_equal(again.scale, scale)
    np.testing.assert_allclose(again.astigmatism_angle, particles.astigmatism_angle)
    assert np.abs(again.defocus_u - particles.defocus_u).min() > 1.0
    # Of the particles in another order too.
    np.testing.assert_array_equal(refined.select([2, 0]).table["rlnDefocusU"], refined.defocus_u[[2, 0]])


def test_replaced_pixel_size_is_written(make_star: Maker, tmp_path: Path) -> None:
    write_particles_star(tmp_path / "out.star", read_particles(make_star(), pixel_size=2.5))
    assert read_particles(tmp_path / "out.star").optics[0].pixel_size == 2.5


def test_image_names_resolve_from_where_they_are_written(
    make_star: Maker, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_star()
    project = tmp_path / "project"
    write_stack(project / "Extract" / "b.mrcs", images, 1.5)
    text = path.read_text().replace("a.mrcs", "Extract/b.mrcs")
    (project / "particles.star").write_text(text)
    monkeypatch.chdir(project)
    particles = read_particles("particles.star")
    # Inside the project, as RELION has it.
    write_particles_star(Path("Refine3D/job1/out.star"), particles)
    assert "\n000001@Extract/b.mrcs\t" in Path("Refine3D/job1/out.star").read_text()
    assert_found(project / "Refine3D" / "job1" / "out.star", images)
    # Outside of it, where that would be found from nowhere.
    write_particles_star(tmp_path / "else" / "out.star", particles)
    assert f"\n000001@{project}/Extract/b.mrcs\t" in (tmp_path / "else" / "out.star").read_text()
    monkeypatch.chdir("/")
    assert_found(project / "Refine3D" / "job1" / "out.star", images)
    assert_found(tmp_path / "else" / "out.star", images)
    # Beside the stack.
    write_particles_star(project / "Extract" / "out.star", particles)
    assert "\n000001@b.mrcs\t" in (project / "Extract" / "out.star").read_text()
    assert_found(project / "Extract" / "out.star", images)


def assert_found(path: Path, images: np.ndarray) -> None:
    np.testing.assert_array_equal(read_particles(path).images([0, 1, 2, 3]), images)


def test_same_tables_give_the_same_bytes(make_star: Maker, tmp_path: Path) -> None:
    particles = read_particles(make_star())
    for name in ("x.star", "y.star"):
        write_particles_star(tmp_path / name, particles)
    assert (tmp_path / "x.star").read_bytes() == (tmp_path / "y.star").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_particles_built_without_tables_can_be_written(make_star: Maker, tmp_path: Path) -> None:
    particles = read_particles(make_star())
    bare = replace(particles, table=pd.DataFrame(index=range(4)), optics_table=pd.DataFrame(index=range(1)))
    rotations = random_rotations(4, np.random.default_rng(0))
    write_particles_star(tmp_path / "out.star", bare, rotations, np.zeros((4, 2)))
    assert_same(
        read_particles(tmp_path / "out.star"),
        replace(particles, rotations=rotations, shifts=np.zeros((4, 2))),
    )


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_star(path, {"optics": pd.DataFrame({"a": [1]}), "particles": None})  # type: ignore[dict-item]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.star"]
