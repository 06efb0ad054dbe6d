"""RELION's optics and particle tables, converted to particles: units and defaults."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryograd.data.optics import electron_wavelength
from cryograd.data.tables import SIGN_COLUMN
from relion_tables import ANGSTROM, PIXEL, SOURCE, convert, optics_table, particle_table, refusal, two_groups


def test_degrees_become_radians() -> None:
    particles = convert(table=particle_table(rlnPhaseShift=[90.0, 0.0]))
    np.testing.assert_allclose(particles.defocus_u, [10000, 20000])
    np.testing.assert_allclose(particles.defocus_v, [9000, 19000])
    np.testing.assert_allclose(particles.astigmatism_angle, [np.pi / 6, -np.pi / 4])
    np.testing.assert_allclose(particles.phase_shift, [np.pi / 2, 0])


def test_absent_columns_have_their_defaults() -> None:
    particles = convert()
    for name, value in {"phase_shift": 0.0, "b_factor": 0.0, "scale": 1.0, "sign": 1.0}.items():
        np.testing.assert_array_equal(getattr(particles, name), [value, value], err_msg=name)
    assert (particles.rotations, particles.shifts, particles.half_set) == (None, None, None)


def test_numbers_may_be_texts() -> None:
    table = particle_table(rlnDefocusU=["10000", "2e4"], rlnCtfScalefactor=["0.5", " 1 "])
    particles = convert(table=table)
    np.testing.assert_array_equal(particles.defocus_u, [10000, 20000])
    np.testing.assert_array_equal(particles.scale, [0.5, 1])


def test_one_defocus_is_no_astigmatism() -> None:
    particles = convert(table=particle_table(drop=("rlnDefocusV", "rlnDefocusAngle")))
    np.testing.assert_array_equal(particles.defocus_v, particles.defocus_u)
    np.testing.assert_array_equal(particles.astigmatism_angle, [0, 0])
    # A copy: who changes one of them does not change the other.
    assert not np.shares_memory(particles.defocus_v, particles.defocus_u)


def test_angles_are_relions() -> None:
    angles = {"rlnAngleRot": [10.0, 0.0], "rlnAngleTilt": [20.0, 0.0]}
    whole = convert(table=particle_table(**angles, rlnAnglePsi=[30.0, 0.0])).rotations
    assert whole is not None
    # RELION's matrix is the passive ZYZ rotation: the transpose of SciPy's active one.
    expected = Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True).as_matrix().T
    np.testing.assert_allclose(whole, [expected, np.eye(3)], atol=1e-12)
    direction = convert(table=particle_table(**angles)).rotations
    assert direction is not None
    without_psi = Rotation.from_euler("ZYZ", [10, 20, 0], degrees=True).as_matrix().T
    np.testing.assert_allclose(direction[0], without_psi, atol=1e-12)


@pytest.mark.parametrize("present", [{"rlnAngleRot"}, {"rlnAngleTilt"}, {"rlnAngleRot", "rlnAnglePsi"}])
def test_a_pose_without_its_direction_is_none(present: set[str]) -> None:
    assert convert(table=particle_table(**{name: [1.0, 2.0] for name in present})).rotations is None


def test_half_sets_and_signs_are_taken() -> None:
    particles = convert(table=particle_table(rlnRandomSubset=[2, 1], **{SIGN_COLUMN: [-1, 1]}))
    np.testing.assert_array_equal(particles.half_set, [2, 1])
    np.testing.assert_array_equal(particles.sign, [-1, 1])
    assert particles.sign.dtype == np.float32


def test_origins_in_angstrom_stay() -> None:
    np.testing.assert_allclose(convert(table=particle_table(**ANGSTROM)).shifts, [[3.0, -1.5], [0.0, 6.0]])


def test_origins_in_pixels_become_angstrom() -> None:
    np.testing.assert_allclose(convert(table=particle_table(**PIXEL)).shifts, [[3.0, -1.5], [0.0, 6.0]])


def test_angstrom_counts_where_both_are_there() -> None:
    stale = {name: [99.0, 99.0] for name in PIXEL}
    shifts = convert(table=particle_table(**ANGSTROM, **stale)).shifts
    np.testing.assert_allclose(shifts, [[3.0, -1.5], [0.0, 6.0]])


def test_half_an_origin_is_none() -> None:
    assert convert(table=particle_table(rlnOriginXAngst=[1.0, 2.0])).shifts is None
    # The other kind is whole.
    mixed = particle_table(rlnOriginXAngst=[1.0, 2.0], **PIXEL)
    np.testing.assert_allclose(convert(table=mixed).shifts, [[3.0, -1.5], [0.0, 6.0]])


def test_each_particle_has_the_pixel_size_of_its_group() -> None:
    table = particle_table(rlnOpticsGroup=[3, 7], **PIXEL)
    np.testing.assert_allclose(convert(two_groups(), table).shifts, [[4.0, -2.0], [0.0, 4.0]])


@pytest.mark.parametrize("origins", [ANGSTROM, PIXEL])
def test_another_pixel_size_keeps_shifts_in_pixels(origins: dict[str, list[float]]) -> None:
    particles = convert(table=particle_table(**origins), pixel_size=3.0)
    assert particles.optics[0].pixel_size == 3.0
    np.testing.assert_allclose(particles.shifts, [[6.0, -3.0], [0.0, 12.0]])


def test_one_pixel_size_does_not_replace_two() -> None:
    error = refusal(two_groups(), particle_table(rlnOpticsGroup=[3, 7]), pixel_size=4.0)
    assert error.what == "the optics groups have the pixel sizes 1, 2 Å, which one cannot replace"
    assert "--pixel-size" in error.where
    # A group without particles does not count.
    one = convert(two_groups(), particle_table(rlnOpticsGroup=[3, 3]), pixel_size=4.0)
    assert [group.pixel_size for group in one.optics] == [4.0]
    same = two_groups(rlnImagePixelSize=["1.50", "1.5"])
    both = convert(same, particle_table(rlnOpticsGroup=[3, 7]), pixel_size=4.0)
    assert [group.pixel_size for group in both.optics] == [4.0, 4.0]


@pytest.mark.parametrize(
    ("columns", "size"),
    [
        ({"rlnImagePixelSize": 1.5, "rlnDetectorPixelSize": 5.0, "rlnMagnification": 33300.0}, 1.5),
        ({"rlnPixelSize": 0.885, "rlnDetectorPixelSize": 5.0, "rlnMagnification": 7062.147}, 7.08),
        ({"rlnPixelSize": 0.885, "rlnImagePixelSize": 3.54}, 3.54),
        ({"rlnPixelSize": 1.25}, 1.25),
        ({"rlnPixelSize": 1.25, "rlnDetectorPixelSize": 5.0}, 1.25),
    ],
)
def test_the_pixel_size_is_that_of_the_images(columns: dict[str, float], size: float) -> None:
    optics = optics_table(drop=("rlnImagePixelSize",)).assign(**columns)
    assert convert(optics).optics[0].pixel_size == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("given", [None, 2.0])
def test_pixel_sizes_that_contradict_each_other_are_refused(given: float | None) -> None:
    optics = optics_table(rlnDetectorPixelSize=[5.0], rlnMagnification=[7062.147])
    error = refusal(optics, pixel_size=given)
    assert error.what == (
        "rlnImagePixelSize is 1.5 Å, and rlnDetectorPixelSize over rlnMagnification is 7.08 Å"
    )
    assert error.where == f"optics group 1 of {SOURCE}"


def test_a_pixel_size_of_a_row_that_contradicts_its_group_is_refused() -> None:
    error = refusal(table=particle_table(rlnImagePixelSize=["1.500", "9.0"]))
    assert error.what == "rlnImagePixelSize is 9 Å here and 1.5 Å in the optics table"
    assert error.where == f"row 2 of {SOURCE}"
    assert (
        convert(table=particle_table(rlnImagePixelSize=[9.0, 9.0]), pixel_size=2.0).optics[0].pixel_size
        == 2.0
    )


def test_the_replaced_pixel_size_may_be_that_of_a_detector() -> None:
    optics = optics_table(drop=("rlnImagePixelSize",), rlnDetectorPixelSize=[6.0], rlnMagnification=[40000.0])
    table = particle_table(**ANGSTROM)
    assert convert(optics, table).optics[0].pixel_size == pytest.approx(1.5)
    np.testing.assert_allclose(convert(optics, table, 3.0).shifts, [[6.0, -3.0], [0.0, 12.0]])


def test_origins_in_angstrom_stay_where_no_pixel_size_is_replaced() -> None:
    optics = optics_table(drop=("rlnImagePixelSize",))
    particles = convert(optics, particle_table(**ANGSTROM), pixel_size=3.0)
    np.testing.assert_allclose(particles.shifts, [[3.0, -1.5], [0.0, 6.0]])


def test_groups_are_matched_by_their_number() -> None:
    particles = convert(two_groups(), particle_table(rlnOpticsGroup=[3, 7]))
    assert [group.name for group in particles.optics] == ["seven", "three"]
    assert [group.wavelength for group in particles.optics] == [
        electron_wavelength(300),
        electron_wavelength(200),
    ]
    np.testing.assert_array_equal(particles.optics_index, [1, 0])


def test_groups_without_particles_are_left_out() -> None:
    # Nor are their values looked at.
    optics = two_groups(rlnVoltage=[np.nan, 200.0])
    particles = convert(optics, particle_table(rlnOpticsGroup=[3, 3]))
    assert [group.name for group in particles.optics] == ["three"]
    assert particles.optics_table["rlnOpticsGroup"].tolist() == [3]
    np.testing.assert_array_equal(particles.optics_index, [0, 0])


@pytest.mark.parametrize("of_group", [(), ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")])
def test_ctf_constants_of_particle_rows_count_before_those_of_the_group(of_group: tuple[str, ...]) -> None:
    constants = {"rlnVoltage": "200.000", "rlnSphericalAberration": "1.4", "rlnAmplitudeContrast": "0.07"}
    table = particle_table(**{name: [value] * 2 for name, value in constants.items()})
    particles = convert(optics_table(drop=of_group), table)
    (group,) = particles.optics
    assert group.wavelength == electron_wavelength(200)
    assert (group.spherical_aberration, group.amplitude_contrast) == (1.4e7, 0.07)
    assert particles.table["rlnVoltage"].tolist() == ["200.000", "200.000"]


def test_a_group_whose_particles_differ_becomes_several() -> None:
    table = particle_table(rlnVoltage=[300.0, 200.0])
    particles = convert(table=table)
    assert [group.wavelength for group in particles.optics] == [
        electron_wavelength(300),
        electron_wavelength(200),
    ]
    assert [group.name for group in particles.optics] == ["one", "one_2"]
    np.testing.assert_array_equal(particles.optics_index, [0, 1])
    assert particles.optics_table["rlnOpticsGroup"].tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("rlnPhaseShift", "phase_shift", np.pi / 2),
        ("rlnCtfBfactor", "b_factor", 90.0),
        ("rlnCtfScalefactor", "scale", 90.0),
        ("rlnDefocusAngle", "astigmatism_angle", np.pi / 2),
        ("rlnDefocusU", "defocus_u", 90.0),
        ("rlnDefocusV", "defocus_v", 90.0),
    ],
)
def test_ctf_values_of_a_group_are_those_of_its_particles(name: str, field: str, value: float) -> None:
    optics = two_groups(**{name: ["45.0", "90.0"]})
    groups = {"rlnOpticsGroup": [3, 7]}
    particles = convert(optics, particle_table(drop=(name,), **groups))
    np.testing.assert_allclose(getattr(particles, field), [value, value / 2])
    # The particle's own counts before that.
    particles = convert(optics, particle_table(**groups, **{name: [180.0, 180.0]}))
    np.testing.assert_allclose(getattr(particles, field), [2 * value, 2 * value])


def test_the_size_of_images_is_that_of_the_group() -> None:
    particles = convert(table=particle_table(rlnImageSize=[5, 5]))
    assert particles.optics[0].box_size == 8


def test_a_pixel_size_that_only_particle_rows_have_counts() -> None:
    optics = optics_table(drop=("rlnImagePixelSize",))
    table = particle_table(rlnDetectorPixelSize=[5.0, 5.0], rlnMagnification=[50000.0, 25000.0])
    assert [group.pixel_size for group in convert(optics, table).optics] == [1.0, 2.0]


def test_names_of_groups_may_be_text_and_numbers_be_written_differently() -> None:
    particles = convert(two_groups(rlnOpticsGroup=["A", "B"]), particle_table(rlnOpticsGroup=["B", "A"]))
    assert [group.name for group in particles.optics] == ["seven", "three"]
    np.testing.assert_array_equal(particles.optics_index, [1, 0])
    assert particles.optics_table["rlnOpticsGroup"].tolist() == ["A", "B"]
    particles = convert(
        two_groups(rlnOpticsGroup=["7", "03"]), particle_table(rlnOpticsGroup=["3.0", "7.000"])
    )
    np.testing.assert_array_equal(particles.optics_index, [1, 0])


@pytest.mark.parametrize("value", [1.5, 1e11])
def test_a_half_set_that_is_no_whole_number_is_refused(value: float) -> None:
    error = refusal(table=particle_table(rlnRandomSubset=[1.0, value]))
    assert error.what == f"rlnRandomSubset is {value:g}, not 1 or 2"


def test_tables_are_carried_as_they_are() -> None:
    table = particle_table(rlnCoordinateX=[5.0, 6.0])
    particles = convert(table=table)
    pd.testing.assert_frame_equal(particles.table, table)
    pd.testing.assert_frame_equal(particles.optics_table, optics_table())
    assert particles.source == SOURCE
