import contextlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryograd.data.read import read_particles
from cryograd.data.star import write_particles_star
from cryograd.errors import CryogradError
from cryograd.rotations import angular_distance, euler_to_matrix
from stacks import write_stack

FIELDS = [
    ("uid", "<u8"),
    ("blob/path", "S40"),
    ("blob/idx", "<u4"),
    ("blob/shape", "<u4", (2,)),
    ("blob/psize_A", "<f4"),
    ("blob/sign", "<f4"),
    ("ctf/exp_group_id", "<u4"),
    ("ctf/accel_kv", "<f4"),
    ("ctf/cs_mm", "<f4"),
    ("ctf/amp_contrast", "<f4"),
    ("ctf/df1_A", "<f4"),
    ("ctf/df2_A", "<f4"),
    ("ctf/df_angle_rad", "<f4"),
    ("ctf/phase_shift_rad", "<f4"),
    ("ctf/tilt_A", "<f4", (2,)),
    ("ctf/anisomag", "<f4", (4,)),
    ("alignments3D/pose", "<f4", (3,)),
    ("alignments3D/shift", "<f4", (2,)),
    ("alignments3D/psize_A", "<f4"),
    ("alignments3D/split", "<u4"),
]


def make_cs(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """Three particles of 8 px with a stack of noise; ``changes`` use __ for / in field names."""
    images = np.random.default_rng(3).standard_normal((3, 8, 8)).astype(np.float32)
    write_stack(folder / "J1" / "imported" / "b.mrc", images, 2.0)
    rows = np.zeros(3, dtype=[field for field in FIELDS if field[0] not in drop])
    values = {
        "uid": [2**63 + 5, 2, 3],
        "blob/path": b">J1/imported/b.mrc",
        "blob/idx": [2, 0, 1],
        "blob/shape": 8,
        "blob/psize_A": 2.0,
        "blob/sign": -1,
        "ctf/exp_group_id": [4, 4, 9],
        "ctf/accel_kv": 300,
        "ctf/cs_mm": 2.7,
        "ctf/amp_contrast": 0.1,
        "ctf/df1_A": [1e4, 2e4, 3e4],
        "ctf/df2_A": [0.9e4, 1.9e4, 2.9e4],
        "ctf/df_angle_rad": 0.5,
        "ctf/phase_shift_rad": 0.25,
        "alignments3D/shift": [[1, -2], [0, 0], [3, 4]],
        "alignments3D/psize_A": 4.0,
        "alignments3D/split": [0, 1, 1],
    } | {name.replace("__", "/"): value for name, value in changes.items()}
    for name, value in values.items():
        if name not in drop:
            rows[name] = value
    path = folder / "J5" / "particles.cs"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        np.save(file, rows)
    return path


def stack_images(folder: Path) -> np.ndarray:
    return np.fromfile(folder / "J1" / "imported" / "b.mrc", "<f4", offset=1024).reshape(3, 8, 8)


def test_values_are_translated(tmp_path: Path) -> None:
    particles = read_particles(
        make_cs(tmp_path, ctf__tilt_A=[[27000.0, 0.0], [27000.0, 0.0], [0.0, 13500.0]])
    )
    assert [o.name for o in particles.optics] == ["exposureGroup4", "exposureGroup9"]
    np.testing.assert_array_equal(particles.optics_index, [0, 0, 1])
    # A float32 2.7 mm is 2.7e7 Å, not 2.70000004e7.
    assert particles.optics[0].spherical_aberration == 2.7e7
    assert particles.optics[0].beam_tilt == pytest.approx((1e-3, 0), rel=1e-5)
    assert particles.optics[1].beam_tilt == pytest.approx((0, 5e-4), rel=1e-5)
    np.testing.assert_allclose(particles.defocus_u, [1e4, 2e4, 3e4])
    np.testing.assert_allclose(particles.defocus_v, [0.9e4, 1.9e4, 2.9e4])
    np.testing.assert_allclose(particles.astigmatism_angle, 0.5)
    np.testing.assert_allclose(particles.phase_shift, 0.25)
    # Pixels of the alignment's sampling, 4 Å, not of the images', 2 Å.
    np.testing.assert_allclose(particles.shifts, [[4, -8], [0, 0], [12, 16]])
    np.testing.assert_array_equal(particles.half_set, [1, 2, 2])
    np.testing.assert_array_equal(particles.image_index, [2, 0, 1])


def test_images_become_bright(tmp_path: Path) -> None:
    images = stack_images(make_cs(tmp_path).parents[1])
    path = make_cs(tmp_path, blob__sign=[-1, -1, 1])
    expected = np.stack([-images[2], -images[0], images[1]])
    np.testing.assert_array_equal(read_particles(path).images([0, 1, 2]), expected)
    np.testing.assert_array_equal(read_particles(path, invert_contrast=True).images([0, 1, 2]), -expected)


@pytest.mark.parametrize(
    ("pose", "rot", "tilt", "psi"),
    [
        ([0, 0, 0], 0, 0, 0),
        ([0, 0, 0.3], 0, 0, 0.3),
        ([0, 0.7, 0], 0, 0.7, 0),
        # Rx(θ) = Rz(−90°) Ry(θ) Rz(90°): turning by −90° about z takes y to x.
        ([1.1, 0, 0], -np.pi / 2, 1.1, np.pi / 2),
    ],
)
def test_pose_convention_on_single_axes(
    tmp_path: Path, pose: list[float], rot: float, tilt: float, psi: float
) -> None:
    rotations = read_particles(make_cs(tmp_path, alignments3D__pose=pose)).rotations
    assert rotations is not None
    np.testing.assert_allclose(rotations[0], euler_to_matrix(np.array([rot, tilt, psi])), atol=1e-6)


def test_pose_is_the_transposed_exponential(shared_data: Path) -> None:
    path = shared_data / "metadata" / "cs" / "cryosparc_P12_J24_001_particles.cs"
    particles = read_particles(path, require_images=False)
    rows = np.load(path)
    v = rows["alignments3D/pose"].astype(np.float64)
    # Rodrigues' formula.
    angle = np.linalg.norm(v, axis=1)[:, None, None]
    x, y, z = (v / angle[:, :, 0]).T
    o = np.zeros_like(x)
    k = np.stack([np.stack(r, -1) for r in [[o, -z, y], [z, o, -x], [-y, x, o]]], -2)
    matrix = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k
    assert particles.rotations is not None
    assert angular_distance(particles.rotations, matrix.swapaxes(1, 2)).max() < 1e-6
    assert len(particles) == 2019
    np.testing.assert_allclose(particles.shifts, 2.95 * rows["alignments3D/shift"], rtol=1e-6)
    np.testing.assert_array_equal(particles.half_set, rows["alignments3D/split"] + 1)
    assert particles.optics[0].wavelength == pytest.approx(0.0250793, abs=1e-6)


def test_agrees_with_the_same_particles_as_star(shared_data: Path) -> None:
    folder = shared_data / "metadata" / "cs"
    cs, star = (read_particles(folder / f"empiar_10076_7.{kind}") for kind in ("cs", "star"))
    for name in ("defocus_u", "defocus_v", "astigmatism_angle"):
        np.testing.assert_allclose(getattr(cs, name), getattr(star, name), rtol=1e-6)
    assert cs.optics[0].wavelength == star.optics[0].wavelength
    assert cs.optics[0].pixel_size == pytest.approx(star.optics[0].pixel_size, rel=1e-6)
    assert cs.optics[0].box_size == star.optics[0].box_size == 320
    # The file says that the protein is dark, the STAR file cannot.
    np.testing.assert_array_equal(cs.images(np.arange(7)), -star.images(np.arange(7)))


def test_sign_and_poses_survive_a_star_file(tmp_path: Path) -> None:
    pose = np.random.default_rng(5).normal(0, 1, (3, 3))
    particles = read_particles(make_cs(tmp_path, alignments3D__pose=pose))
    write_particles_star(tmp_path / "out" / "particles.star", particles)
    again = read_particles(tmp_path / "out" / "particles.star")
    np.testing.assert_array_equal(again.images([0, 1, 2]), particles.images([0, 1, 2]))
    assert again.rotations is not None
    assert particles.rotations is not None
    assert angular_distance(again.rotations, particles.rotations).max() < np.deg2rad(1e-4)
    np.testing.assert_allclose(again.shifts, particles.shifts, atol=1e-5)
    assert [o.name for o in again.optics] == ["exposureGroup4", "exposureGroup9"]
    table = starfile.read(tmp_path / "out" / "particles.star")["particles"]
    assert table["cryosparcUid"].tolist() == [2**63 + 5, 2, 3]


def test_no_alignment_is_no_pose(tmp_path: Path) -> None:
    fields = ("alignments3D/pose", "alignments3D/shift", "alignments3D/split", "alignments3D/psize_A")
    particles = read_particles(make_cs(tmp_path, drop=fields))
    assert (particles.rotations, particles.shifts, particles.half_set) == (None, None, None)


@pytest.mark.parametrize("name", ["blob/path", "blob/psize_A", "ctf/df1_A", "ctf/cs_mm"])
def test_missing_column_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CryogradError, match=rf"missing column {name}, .*particles\.cs"):
        read_particles(make_cs(tmp_path, drop=(name,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctf__anisomag": [1e-3, 0, 0, 0]}, "aberrations ctf/anisomag are not supported"),
        ({"blob__sign": [-1, 0, 1]}, "image sign is 0, not 1 or -1.*row 2"),
        ({"blob__shape": [[8, 8], [8, 6], [8, 8]]}, "not square"),
        ({"blob__shape": 16}, "8 × 8 pixels, but optics group exposureGroup4 has box size 16"),
        ({"blob__idx": [0, 1, 3]}, "image 4 is beyond the end"),
        ({"blob__path": b"J1/imported/none.mrc"}, r"J1/imported/none\.mrc does not exist"),
        ({"ctf__df1_A": [1, np.nan, 1]}, "ctf/df1_A is nan, row 2"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CryogradError, match=message):
        read_particles(make_cs(tmp_path, **changes))


def test_differing_particles_split_their_exposure_group(tmp_path: Path) -> None:
    particles = read_particles(make_cs(tmp_path, ctf__accel_kv=[300, 200, 300]))
    assert [o.name for o in particles.optics] == ["exposureGroup4", "exposureGroup4_2", "exposureGroup9"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.cs"
    path.write_bytes(b"\x94CSDAT and so on")
    with pytest.raises(CryogradError, match="not a CryoSPARC particle file"):
        read_particles(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(CryogradError, match="not a CryoSPARC particle file"):
        read_particles(path)


def test_stack_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_cs(tmp_path / "project")
    moved = shutil.copy(path, tmp_path / "particles.cs")
    with pytest.raises(CryogradError, match="does not exist"):
        read_particles(moved)
    monkeypatch.chdir(tmp_path / "project")
    assert len(read_particles(moved)) == 3


def altered(path: Path, name: str, kind: object) -> Path:
    """The same particles with one column of another type."""
    rows = np.load(path)
    types = [(field, kind if field == name else rows.dtype[field]) for field in rows.dtype.names or ()]
    other = np.zeros(len(rows), dtype=types)
    for field in rows.dtype.names or ():
        if field != name:
            other[field] = rows[field]
    np.save(path.with_suffix(".npy"), other)
    return path.with_suffix(".npy").rename(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blob/path", "<f4"),
        ("blob/path", "<U40"),
        ("blob/idx", ("<u4", (1,))),
        ("blob/idx", "<f4"),
        ("blob/shape", "<u4"),
        ("blob/shape", ("<u4", (0,))),
        ("blob/psize_A", "S8"),
        ("blob/sign", "<M8[s]"),
        ("ctf/cs_mm", [("a", "<f4")]),
        ("ctf/df1_A", "<c8"),
        ("ctf/tilt_A", ("<f4", (3,))),
        ("alignments3D/pose", ("<f4", (0,))),
        ("alignments3D/pose", ("<f4", (3, 4))),
        ("alignments3D/split", "?"),
        ("uid", "S8"),
    ],
)
def test_columns_of_another_type_are_named(tmp_path: Path, name: str, kind: object) -> None:
    with pytest.raises(CryogradError, match=f"the column {name} has the "):
        read_particles(altered(make_cs(tmp_path), name, kind))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blob__psize_A": [2.0, np.inf, 2.0]}, "blob/psize_A is inf, row 2"),
        (
            {"alignments3D__pose": [[0, 0, 0], [0, 0, 0], [0, np.nan, 0]]},
            r"alignments3D/pose is .*nan.*row 3",
        ),
        ({"blob__sign": [-1, 0.5, 1]}, "image sign is 0.5, not 1 or -1.*row 2"),
        ({"blob__sign": [-1, 1, 1e30]}, "cryogradImageSign is out of all range.*row 3"),
        ({"blob__idx": [2**32 - 1, 0, 0]}, "blob/idx is 4294967295, row 1"),
        ({"blob__path": b"a\nb"}, "blob/path is .*row 1"),
        ({"ctf__tilt_A": [[1e9, 0.0]] * 3}, "rlnBeamTiltX is not a number"),
        ({"blob__psize_A": -2.0}, "rlnImagePixelSize is -2, not positive"),
    ],
)
def test_damaged_values_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CryogradError, match=message):
        read_particles(make_cs(tmp_path, **changes))


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 2000), noise=st.binary(min_size=1, max_size=30), cut=st.booleans())
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("cs")
    path = make_cs(folder)
    content = path.read_bytes()
    path.write_bytes(content[:place] if cut else content[:place] + noise + content[place + len(noise) :])
    with contextlib.suppress(CryogradError):
        read_particles(path)


def test_many_columns_are_no_hindrance(tmp_path: Path) -> None:
    path = make_cs(tmp_path)
    rows = np.load(path)
    more = [(f"alignments_class_{i}/class_posterior_of_this_job", "<f4") for i in range(400)]
    wide = np.zeros(len(rows), dtype=[*rows.dtype.descr, *more])
    for name in rows.dtype.names or ():
        wide[name] = rows[name]
    with path.open("wb") as file:
        np.save(file, wide)
    assert len(path.read_bytes()) > 20_000
    assert len(read_particles(path)) == 3


@pytest.mark.parametrize("name", ["Gitter_\udcb5m.mrc", "grille_\u00e9t\u00e9.mrc", "a b.mrc"])
def test_stacks_are_found_by_the_bytes_of_their_names(tmp_path: Path, name: str) -> None:
    path = make_cs(tmp_path, blob__path=b">J1/imported/" + os.fsencode(name))
    (tmp_path / "J1" / "imported" / "b.mrc").rename(tmp_path / "J1" / "imported" / name)
    particles = read_particles(path)
    write_particles_star(tmp_path / "out.star", particles)
    np.testing.assert_array_equal(
        read_particles(tmp_path / "out.star").images([0, 1, 2]), particles.images([0, 1, 2])
    )


@pytest.mark.parametrize("split", [0, 1])
def test_one_half_for_all_is_no_split(tmp_path: Path, split: int) -> None:
    assert read_particles(make_cs(tmp_path, alignments3D__split=split)).half_set is None


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = make_cs(tmp_path)
    rows = np.load(path)[:0]
    with path.open("wb") as file:
        np.save(file, rows)
    with pytest.raises(CryogradError, match="no rows"):
        read_particles(path)


def test_a_header_of_python_2_is_read_without_a_word(tmp_path: Path) -> None:
    path = make_cs(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(3,), } ", b"(3L,), }", 1))
    assert path.read_bytes() != content
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_particles(path)) == 3
