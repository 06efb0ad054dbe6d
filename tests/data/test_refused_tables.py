"""RELION's optics and particle tables that are refused, and stacks that do not fit them."""

from pathlib import Path

import numpy as np
import pytest

from cryograd.data.tables import SIGN_COLUMN, particles_from_tables
from cryograd.errors import CryogradError
from relion_tables import SOURCE, convert, optics_table, particle_table, refusal, two_groups
from stacks import write_stack


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
