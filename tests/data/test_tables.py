"""RELION's optics and particle tables, converted to particles: units, defaults, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryograd.data.optics import electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.tables import SIGN_COLUMN, particles_from_tables
from cryograd.errors import CryogradError
from stacks import write_stack

SOURCE = Path("/project/Extract/job3/particles.star")
ANGSTROM = {"rlnOriginXAngst": [3.0, 0.0], "rlnOriginYAngst": [-1.5, 6.0]}
PIXEL = {"rlnOriginX": [2.0, 0.0], "rlnOriginY": [-1.0, 4.0]}


def optics_table(drop: tuple[str, ...] = (), **columns: Any) -> pd.DataFrame:
    """An optics table of one group, number 1, of 8 px images of 1.5 Å; columns may be added or replaced."""
    values = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["one"],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnImagePixelSize": [1.5],
        "rlnImageSize": [8],
    } | columns
    return pd.DataFrame({name: value for name, value in values.items() if name not in drop})


def two_groups(**columns: Any) -> pd.DataFrame:
    """An optics table of the groups 7 and 3, of 1 Å and 2 Å."""
    values: dict[str, Any] = {"rlnOpticsGroup": [7, 3], "rlnOpticsGroupName": ["seven", "three"]}
    values |= {"rlnImagePixelSize": [1.0, 2.0], "rlnVoltage": [300.0, 200.0]}
    common = {"rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1, "rlnImageSize": 8}
    return pd.DataFrame(values | columns).assign(**common)


def particle_table(drop: tuple[str, ...] = (), **columns: Any) -> pd.DataFrame:
    """A table of two particles of group 1; columns may be added or replaced."""
    values = {
        "rlnImageName": ["1@a.mrcs", "2@a.mrcs"],
        "rlnOpticsGroup": [1, 1],
        "rlnDefocusU": [10000.0, 20000.0],
        "rlnDefocusV": [9000.0, 19000.0],
        "rlnDefocusAngle": [30.0, -45.0],
    } | columns
    return pd.DataFrame({name: value for name, value in values.items() if name not in drop})


def convert(
    optics: pd.DataFrame | None = None,
    table: pd.DataFrame | None = None,
    pixel_size: float | None = None,
) -> Particles:
    """The particles of two tables, without their images."""
    return particles_from_tables(
        optics_table() if optics is None else optics,
        particle_table() if table is None else table,
        SOURCE,
        pixel_size=pixel_size,
        require_images=False,
    )


def refusal(
    optics: pd.DataFrame | None = None, table: pd.DataFrame | None = None, pixel_size: float | None = None
) -> CryogradError:
    """The error with which two tables are refused."""
    with pytest.raises(CryogradError) as error:
        convert(optics, table, pixel_size)
    return error.value


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


def test_errors_of_optics_name_the_group() -> None:
    error = refusal(two_groups(rlnVoltage=[300.0, -1.0]), particle_table(rlnOpticsGroup=[3, 7]))
    assert (error.what, error.where) == (
        "rlnVoltage is -1, not positive",
        f"optics group 3 of {SOURCE}",
    )


@pytest.mark.parametrize(
    ("optics_without", "table_without", "what", "remedy"),
    [
        (("rlnVoltage",), (), "missing column rlnVoltage", "add the columns to the file"),
        (
            ("rlnSphericalAberration", "rlnAmplitudeContrast"),
            (),
            "missing columns rlnSphericalAberration, rlnAmplitudeContrast",
            "add the columns to the file",
        ),
        (("rlnImagePixelSize",), (), "missing column rlnImagePixelSize", "add the columns to the file"),
        (
            ("rlnVoltage",),
            ("rlnDefocusU",),
            "missing columns rlnVoltage, rlnDefocusU",
            "estimate the CTF and extract the particles again, or add the columns",
        ),
        ((), ("rlnDefocusV",), "missing column rlnDefocusV", "add the columns to the file"),
        ((), ("rlnDefocusAngle",), "missing column rlnDefocusAngle", "add the columns to the file"),
        (
            (),
            ("rlnImageName",),
            "the particle table has no column rlnImageName",
            "extract the particles first: a file of coordinates alone has no images",
        ),
        (("rlnOpticsGroup",), (), "missing column rlnOpticsGroup", "add it to both tables"),
        ((), ("rlnOpticsGroup",), "missing column rlnOpticsGroup", "add it to both tables"),
    ],
)
def test_missing_columns_are_named(
    optics_without: tuple[str, ...], table_without: tuple[str, ...], what: str, remedy: str
) -> None:
    error = refusal(optics_table(drop=optics_without), particle_table(drop=table_without))
    assert (error.what, error.where, error.remedy) == (what, str(SOURCE), remedy)


def test_a_pixel_size_that_is_given_need_not_be_in_the_file() -> None:
    assert convert(optics_table(drop=("rlnImagePixelSize",)), pixel_size=2.0).optics[0].pixel_size == 2.0


def test_a_table_without_rows_is_refused() -> None:
    assert refusal(table=particle_table().iloc[:0]).what == "the particle table has no rows"


def test_a_group_that_is_not_in_the_optics_table_is_refused() -> None:
    error = refusal(table=particle_table(rlnOpticsGroup=[1, 4]))
    assert error.what == "optics group 4 is not in the optics table"
    assert error.where == f"row 2 of {SOURCE}"


def test_a_group_that_is_there_twice_is_refused() -> None:
    error = refusal(two_groups(rlnOpticsGroup=[1, 1]))
    assert error.what == "optics group 1 is in the optics table twice, with different values"


@pytest.mark.parametrize("name", ["rlnDefocusU", "rlnDefocusV", "rlnCtfBfactor", "rlnRandomSubset"])
@pytest.mark.parametrize("value", [np.nan, np.inf, "abc"])
def test_a_value_that_is_no_number_is_named(name: str, value: object) -> None:
    error = refusal(table=particle_table(**{name: [1.0, value]}))
    assert error.what == f"{name} is not a number: {value}"
    assert (error.where, error.remedy) == (f"row 2 of {SOURCE}", "correct or remove the particle")


@pytest.mark.parametrize("value", [1e300, -1e20])
def test_a_value_that_is_out_of_all_range_is_refused(value: float) -> None:
    error = refusal(table=particle_table(rlnDefocusU=[1.0, value]))
    assert error.what == f"rlnDefocusU is out of all range: {value}"
    error = refusal(optics_table(rlnVoltage=[abs(value)]))
    assert error.what == f"rlnVoltage is {abs(value):g}, out of all range"


@pytest.mark.parametrize("sign", [0.0, 2.0, -0.5])
def test_a_sign_that_is_none_is_refused(sign: float) -> None:
    error = refusal(table=particle_table(**{SIGN_COLUMN: [1.0, sign]}))
    assert error.what == f"the image sign is {sign:g}, not 1 or -1 ({SIGN_COLUMN}, blob/sign)"
    assert (error.where, error.remedy) == (f"row 2 of {SOURCE}", "correct the sign")


def images_beside(folder: Path, n: int = 2, box: int = 8) -> Path:
    """A particle file's path, with a stack of noise beside it."""
    write_stack(folder / "a.mrcs", np.random.default_rng(0).random((n, box, box), dtype=np.float32), 1.5)
    return folder / "particles.star"


def test_the_box_is_that_of_the_stack_where_the_optics_table_has_none(tmp_path: Path) -> None:
    optics = optics_table(drop=("rlnImageSize",))
    particles = particles_from_tables(optics, particle_table(), images_beside(tmp_path, box=6))
    assert particles.optics[0].box_size == 6
    assert particles.images([0, 1]).shape == (2, 6, 6)
    assert convert(optics).optics[0].box_size == 0


def test_images_must_have_the_box_of_their_group(tmp_path: Path) -> None:
    message = r"the images are 6 × 6 pixels, but optics group one has box size 8, .*a\.mrcs"
    with pytest.raises(CryogradError, match=message):
        particles_from_tables(optics_table(), particle_table(), images_beside(tmp_path, box=6))


def test_images_must_be_in_their_stack(tmp_path: Path) -> None:
    message = r"image 2 is beyond the end of the stack, which has 1, .*a\.mrcs"
    with pytest.raises(CryogradError, match=message):
        particles_from_tables(optics_table(), particle_table(), images_beside(tmp_path, n=1))


@pytest.mark.parametrize(("value", "what"), [("abc", "is not a number: abc"), (0, "is 0, not positive")])
def test_a_box_that_is_none_is_refused(value: object, what: str) -> None:
    assert refusal(optics_table(rlnImageSize=[value])).what == f"rlnImageSize {what}"


def test_stacks_that_are_not_needed_are_named_from_the_folder_of_the_file() -> None:
    particles = convert()
    assert particles.stacks == (SOURCE.parent / "a.mrcs",)
    np.testing.assert_array_equal(particles.image_index, [0, 1])
