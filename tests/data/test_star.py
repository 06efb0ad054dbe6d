from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import starfile
from scipy.spatial.transform import Rotation

from cryograd.data.optics import electron_wavelength
from cryograd.data.read import read_particles
from cryograd.data.star import read_star, write_particles_star
from cryograd.errors import CryogradError
from stacks import write_stack

Maker = Callable[..., Path]
CTF = {"rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"}


def test_a_column_that_is_there_twice_is_refused(make_star: Maker) -> None:
    path = make_star(
        ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnDefocusU"],
        ["1@a.mrcs 1 10000 9000 30 10000"],
        optics=["g 1 300 2.7 0.1 1.5 8"],
    )
    with pytest.raises(CryogradError, match="particles has the column rlnDefocusU twice"):
        read_particles(path)


def test_values_are_converted(make_star: Maker) -> None:
    columns = [
        "rlnImageName",
        "rlnOpticsGroup",
        "rlnDefocusU",
        "rlnDefocusV",
        "rlnDefocusAngle",
        "rlnPhaseShift",
        "rlnCtfBfactor",
        "rlnCtfScalefactor",
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnOriginX",
        "rlnRandomSubset",
    ]
    particles = read_particles(
        make_star(
            columns,
            ["2@a.mrcs 1 10000 9000 30 90 20 0.5 10 20 30 -3 4.5 99 2"],
            optics=["g 1 300 2.7 0.1 1.5 8"],
        )
    )
    assert particles.optics[0].name == "g"
    assert particles.optics[0].wavelength == pytest.approx(0.0196876, abs=1e-7)
    assert particles.optics[0].spherical_aberration == 2.7e7
    np.testing.assert_allclose(particles.defocus_u, [10000])
    np.testing.assert_allclose(particles.defocus_v, [9000])
    np.testing.assert_allclose(particles.astigmatism_angle, [np.pi / 6])
    np.testing.assert_allclose(particles.phase_shift, [np.pi / 2])
    np.testing.assert_allclose(particles.b_factor, [20])
    np.testing.assert_allclose(particles.scale, [0.5])
    np.testing.assert_allclose(particles.shifts, [[-3, 4.5]])
    # RELION's matrix is the passive ZYZ rotation: the transpose of SciPy's active one.
    expected = Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).as_matrix().T
    assert particles.rotations is not None
    np.testing.assert_allclose(particles.rotations[0], expected, atol=1e-12)
    np.testing.assert_array_equal(particles.half_set, [2])
    np.testing.assert_array_equal(particles.image_index, [1])


def test_defaults_of_absent_columns(make_star: Maker) -> None:
    particles = read_particles(make_star())
    np.testing.assert_array_equal(particles.phase_shift, np.zeros(4))
    np.testing.assert_array_equal(particles.b_factor, np.zeros(4))
    np.testing.assert_array_equal(particles.scale, np.ones(4))
    assert (particles.rotations, particles.shifts, particles.half_set) == (None, None, None)


def test_in_plane_angle_alone_is_no_pose(make_star: Maker) -> None:
    path = make_star(
        ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnAnglePsi"], ["1@a.mrcs 1 10000 45"]
    )
    assert read_particles(path).rotations is None


@pytest.mark.parametrize("columns", [{"rlnDefocusV"}, {"rlnDefocusAngle"}, {"rlnDefocusU"}, CTF])
def test_missing_defocus_is_named(make_star: Maker, columns: set[str]) -> None:
    kept = [c for c in ["rlnImageName", "rlnOpticsGroup", *sorted(CTF)] if c not in columns]
    path = make_star(kept, [" ".join(["1@a.mrcs", "1", *["9000"] * (len(kept) - 2)])])
    with pytest.raises(CryogradError, match="missing column") as error:
        read_particles(path)
    # Without any defocus, one column is enough to mend it.
    named = {"rlnDefocusU"} if columns == CTF else columns
    assert {c for c in CTF if c in error.value.what} == named
    assert "particles.star" in error.value.where


@pytest.mark.parametrize(
    "missing", ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize"]
)
def test_missing_optics_column_is_named(make_star: Maker, missing: str) -> None:
    names = [
        "rlnOpticsGroup",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnImagePixelSize",
    ]
    values = dict(zip(names, ["1", "300", "2.7", "0.1", "1.5"], strict=True))
    del values[missing]
    path = make_star(optics_columns=list(values), optics=[" ".join(values.values())])
    with pytest.raises(CryogradError, match=f"missing column {missing}, "):
        read_particles(path)
    if missing == "rlnImagePixelSize":
        assert read_particles(path, pixel_size=2.0).optics[0].pixel_size == 2.0


def test_value_that_is_no_number_is_named(make_star: Maker) -> None:
    columns = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU"]
    path = make_star(columns, ["1@a.mrcs 1 10000", "2@a.mrcs 1 nan"])
    with pytest.raises(CryogradError, match=r"rlnDefocusU is not a number: nan, row 2 of .*particles\.star"):
        read_particles(path)


def test_optics_groups_are_matched_by_number(make_star: Maker) -> None:
    columns = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU"]
    groups = ["g7 7 300 2.7 0.1 1.5 8", "g5 5 300 2.7 0.1 1.5 8", "g2 2 200 2.7 0.1 1.25 8"]
    particles = read_particles(make_star(columns, ["1@a.mrcs 2 1", "2@a.mrcs 7 1"], optics=groups))
    # Group 5 has no particles.
    assert [optics.name for optics in particles.optics] == ["g7", "g2"]
    np.testing.assert_array_equal(particles.optics_index, [1, 0])
    with pytest.raises(CryogradError, match="optics group 3 is not in the optics table, row 1"):
        read_particles(make_star(columns, ["1@a.mrcs 3 1"], optics=groups))
    with pytest.raises(CryogradError, match="optics group 7 is in the optics table twice"):
        read_particles(
            make_star(columns, ["1@a.mrcs 7 1"], optics=[groups[0], groups[0].replace("300", "200")])
        )


def test_no_optics_group_column(make_star: Maker) -> None:
    columns = ["rlnImageName", "rlnDefocusU"]
    assert len(read_particles(make_star(columns, ["1@a.mrcs 1"]))) == 1
    two = ["g1 1 300 2.7 0.1 1.5 8", "g2 2 300 2.7 0.1 1.5 8"]
    with pytest.raises(CryogradError, match="missing column rlnOpticsGroup"):
        read_particles(make_star(columns, ["1@a.mrcs 1"], optics=two))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no STAR table"),
        ("data_particles\n\nloop_\n_rlnCoordinateX #1\n1.0\n", "no table has a column rlnImageName"),
        (
            "data_particles\n\nloop_\n_rlnImageName\n_rlnDefocusU\n1@a.mrcs 1\n1@a.mrcs 1 2 3\n",
            "a row of data_particles has 4 values, and there are 2 columns, line 7 of",
        ),
        ("data_particles\n\nloop_\n_rlnImageName\n_rlnDefocusU\n", "no rows"),
        (
            "data_a\n\nloop_\n_rlnImageName\n_rlnDefocusU\n1@a.mrcs 1\n"
            "data_b\n\nloop_\n_rlnImageName\n_rlnDefocusU\n1@a.mrcs 1\n",
            "tables a, b all have a column rlnImageName",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "particles.star"
    path.write_text(text)
    with pytest.raises(CryogradError, match=message):
        read_particles(path)


def test_odd_but_legal_syntax(make_star: Maker, images: np.ndarray, tmp_path: Path) -> None:
    make_star()
    (tmp_path / "my data").mkdir()
    write_stack(tmp_path / "my data" / "b.mrc", images, 1.5)
    path = tmp_path / "odd.star"
    path.write_text(
        "# a comment\n\ndata_optics\n\n_rlnOpticsGroup   1\n_rlnVoltage\t300 \n_rlnSphericalAberration 2.7\n"
        "_rlnAmplitudeContrast 0.1\n_rlnImagePixelSize 1.5\n\n\ndata_images # particles\n\nloop_ \n"
        "_rlnImageName #1 [name]\n_rlnOpticsGroup\n_rlnMicrographName\n_rlnDefocusU #3\n"
        '1@a.mrcs\t1   007  10000  \n\t2@"my data/b.mrc" 1 008 9000\n\n'.replace('2@"my data', '"2@my data')
        + '"3@my data/b.mrc:mrcs" 1 009 8000\n'
    )
    particles = read_particles(path)
    np.testing.assert_array_equal(particles.defocus_u, [10000, 9000, 8000])
    np.testing.assert_array_equal(particles.images([0, 1, 2]), images[[0, 1, 2]])
    assert len(particles.stacks) == 2
    # Names that look like numbers keep their zeros, and quoted paths their quotes.
    write_particles_star(tmp_path / "out.star", particles)
    again = read_particles(tmp_path / "out.star")
    assert again.table["rlnMicrographName"].tolist() == ["007", "008", "009"]
    np.testing.assert_array_equal(again.images([2]), images[2:3])


def test_relion_30_groups_rows_by_their_optics(make_star: Maker, tmp_path: Path) -> None:
    make_star()
    rows = ["1@a.mrcs 1 300 2.7 0.1 2.0", "2@a.mrcs 1 200 2.7 0.1 2.0", "3@a.mrcs 1 300 2.7 0.1 2.0"]
    names = ["ImageName", "DefocusU", "Voltage", "SphericalAberration", "AmplitudeContrast", "PixelSize"]
    path = tmp_path / "old.star"
    path.write_text("data_images\n\nloop_\n" + "".join(f"_rln{n}\n" for n in names) + "\n".join(rows) + "\n")
    particles = read_particles(path)
    np.testing.assert_array_equal(particles.optics_index, [0, 1, 0])
    assert [o.wavelength for o in particles.optics] == [electron_wavelength(300), electron_wavelength(200)]
    assert [o.name for o in particles.optics] == ["opticsGroup1", "opticsGroup2"]
    assert particles.optics[0].pixel_size == 2.0


def test_six_optics_groups(shared_data: Path) -> None:
    path = shared_data / "metadata" / "star" / "relion31.6opticsgroups.star"
    particles = read_particles(path, require_images=False)
    table = read_star(path)["particles"]
    assert len(particles) == len(table) == 139
    assert len(particles.optics) == 6
    assert [o.name[-1] for o in particles.optics] == ["5", "3", "2", "1", "4", "6"]
    np.testing.assert_array_equal(particles.optics_index + 1, table["rlnOpticsGroup"])
    first = particles.optics[0]
    assert first.beam_tilt == pytest.approx((0.657334e-3, 0.884982e-3))
    assert first.odd_zernike == (1.70554063513, 1.2131261042, 2.54522458134, 0, 0, 3.56183614819)
    assert len(first.even_zernike) == 9
    assert first.magnification == ((1.011472, 0.004231), (0.00456, 1.008858))
    assert particles.optics[3].spherical_aberration == pytest.approx(2.6e7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("basic_double_quote", "rlnImageName"),
        ("empty_loop", "rlnImageName"),
        ("one_loop", "rlnVoltage, rlnSphericalAberration, rlnAmplitudeContrast, rlnDefocusU"),
        ("rln3.1_data_style", "rlnDefocusU"),
        ("sample_incomplete_ctf_params", "missing column rlnVoltage, "),
        ("single_line_end_of_multiblock", "rlnDefocusU"),
        ("relion31.6opticsgroups", "Polish/job520/Micrographs/0003_shiny.mrcs does not exist"),
        ("sample_particles_relion31", "sample.mrcs does not exist"),
    ],
)
def test_incomplete_samples_are_refused_by_name(shared_data: Path, name: str, message: str) -> None:
    with pytest.raises(CryogradError, match=message):
        read_particles(shared_data / "metadata" / "star" / f"{name}.star")


def test_relion_projections(shared_data: Path) -> None:
    path = shared_data / "conventions" / "relion_proj_batch.star"
    particles = read_particles(path)
    table = starfile.read(path)["particles"]
    assert particles.images(np.arange(24)).shape == (24, 64, 64)
    # The file has both; Å is meant.
    np.testing.assert_allclose(particles.shifts, table[["rlnOriginXAngst", "rlnOriginYAngst"]])


@pytest.mark.parametrize("value", ["nan", "abc", "0"])
def test_a_box_size_that_is_none_is_refused(make_star: Maker, value: str) -> None:
    with pytest.raises(CryogradError, match="rlnImageSize is"):
        read_particles(make_star(optics=[f"opticsGroup1 1 300.0 2.7 0.1 1.5 {value}"]))


def test_the_ending_of_the_name_may_be_in_capitals(make_star: Maker) -> None:
    path = make_star()
    assert len(read_particles(path.rename(path.with_suffix(".STAR")))) == 4
