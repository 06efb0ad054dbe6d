"""Optics and particle tables of STAR files: joined files, groups of one's own, tilt series, and back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryograd.data.optics import electron_wavelength
from cryograd.data.read import read_particles
from cryograd.data.star import refuse_unwritable, write_particles_star
from cryograd.data.star_text import read_text
from cryograd.errors import CryogradError
from stars import COLUMNS, OPTICS, OPTICS_COLUMNS, loop

Maker = Callable[..., Path]
OLD = ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnPixelSize"]


def appended(path: Path, optics: list[str], rows: list[str]) -> Path:
    """A file with a second file after it."""
    second = loop("optics", OPTICS_COLUMNS, optics) + loop("particles", COLUMNS, rows)
    path.write_text(path.read_text() + second)
    return path


def relion_30(make_star: Maker, columns: list[str], rows: list[str]) -> Path:
    """A file with one table, after its stack."""
    path = make_star()
    path.write_text(loop("images", ["rlnImageName", "rlnDefocusU", *OLD, *columns], rows))
    return path


def rewritten(path: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of the optics and particle tables after particles were read and written."""
    particles = read_particles(path)
    refuse_unwritable(path.with_name("out.star"), particles)
    write_particles_star(path.with_name("out.star"), particles)
    assert len(read_particles(path.with_name("out.star"))) == len(particles)
    return {name: table.to_dict("records") for name, table in read_text(path.with_name("out.star")).items()}


def test_particles_of_files_that_were_joined_are_all_there(make_star: Maker) -> None:
    path = appended(make_star(), [OPTICS], ["000002@a.mrcs 1 7000 7000 0"])
    particles = read_particles(path)
    assert len(particles.optics) == 1
    np.testing.assert_array_equal(particles.defocus_u, [10001, 10002, 10003, 10004, 7000])


def test_the_same_optics_may_be_written_differently(make_star: Maker) -> None:
    again = OPTICS.replace("300.0 2.7", "300.000000 2.70")
    assert len(read_particles(appended(make_star(), [again], ["2@a.mrcs 1 7000 7000 0"]))) == 5


def test_joined_files_with_groups_of_their_own_are_joined(make_star: Maker) -> None:
    other = OPTICS.replace("opticsGroup1 1 300.0", "opticsGroup2 2 200.0")
    particles = read_particles(appended(make_star(), [other], ["2@a.mrcs 2 7000 7000 0"]))
    assert [group.wavelength for group in particles.optics] == [
        electron_wavelength(300),
        electron_wavelength(200),
    ]
    np.testing.assert_array_equal(particles.optics_index, [0, 0, 0, 0, 1])


def test_joined_files_whose_groups_contradict_each_other_are_refused(make_star: Maker) -> None:
    path = appended(make_star(), [OPTICS.replace("300.0", "200.0")], ["2@a.mrcs 1 7000 7000 0"])
    with pytest.raises(
        CryogradError, match="optics group 1 is in the optics table twice, with different values"
    ):
        read_particles(path)


def test_columns_that_are_not_computed_with_stay_as_they_are(make_star: Maker) -> None:
    own = [
        "rlnTomoName",
        "labGrid",
        "ucsfUid",
        "rlnGroupName",
        "labComment",
        "rlnMicrographName",
        "labWeight",
    ]
    values = ["00255", "1E5", "12345678901234567891", "NA", "'a b'", "Grid5'_1.mrc", "1.500000"]
    row = " ".join(["1@a.mrcs 1 10000 9000 30", *values])
    (written,) = rewritten(make_star([*COLUMNS, *own], [row]))["particles"]
    kept = dict(zip(own, values, strict=True)) | {"labComment": "a b"}
    assert {name: written[name] for name in own} == kept
    assert written["rlnDefocusU"] == "10000"


def test_half_an_origin_stays_where_there_is_no_other(make_star: Maker) -> None:
    (written,) = rewritten(make_star([*COLUMNS, "rlnOriginX"], ["1@a.mrcs 1 10000 9000 30 1.50"]))[
        "particles"
    ]
    assert written["rlnOriginX"] == "1.50"


def test_columns_of_the_optics_table_stay_as_they_are(make_star: Maker) -> None:
    optics = [f"{OPTICS} 007 mtf_k2's.star"]
    path = make_star(optics_columns=[*OPTICS_COLUMNS, "labSession", "rlnMtfFileName"], optics=optics)
    (written,) = rewritten(path)["optics"]
    assert (written["labSession"], written["rlnMtfFileName"]) == ("007", "mtf_k2's.star")
    assert written["rlnVoltage"] == "300.0"


def test_names_of_groups_may_be_bytes_that_are_no_text(make_star: Maker) -> None:
    path = make_star()
    path.write_bytes(path.read_bytes().replace(b"opticsGroup1 1", b"Gitter_\xb5 1"))
    assert [group["rlnOpticsGroupName"] for group in rewritten(path)["optics"]] == ["Gitter_\udcb5"]


@pytest.mark.parametrize("names", [["A", "B"], ["7", "3"], ["session 1", "session 2"], ["grid#1", "grid#2"]])
def test_groups_are_written_as_they_are_called(make_star: Maker, names: list[str]) -> None:
    optics = [f"g{i} '{name}' 300.0 2.7 0.1 1.5 8" for i, name in enumerate(names)]
    rows = [f"{i + 1}@a.mrcs '{names[i % 2]}' 10000 9000 30" for i in range(4)]
    written = rewritten(make_star(rows=rows, optics=optics))
    assert [group["rlnOpticsGroup"] for group in written["optics"]] == names
    assert [particle["rlnOpticsGroup"] for particle in written["particles"]] == names * 2


def test_relion_30_keeps_groups_of_ones_own(make_star: Maker) -> None:
    rows = [f"{i}@a.mrcs 10000 300 2.7 0.1 1.5 {group}" for i, group in ((1, 7), (2, 3), (3, 7), (4, 3))]
    path = relion_30(make_star, ["rlnOpticsGroup"], rows)
    assert [group.name for group in read_particles(path).optics] == ["opticsGroup7", "opticsGroup3"]
    written = rewritten(path)
    assert [group["rlnOpticsGroup"] for group in written["optics"]] == ["7", "3"]
    assert [particle["rlnOpticsGroup"] for particle in written["particles"]] == ["7", "3", "7", "3"]


def test_a_group_of_ones_own_that_has_two_optics_becomes_two(make_star: Maker) -> None:
    kv = {1: 300, 2: 200, 3: 300, 4: 200}
    rows = [f"{i}@a.mrcs 10000 {kv[i]} 2.7 0.1 1.5 {group}" for i, group in ((1, 1), (2, 1), (3, 2), (4, 1))]
    written = rewritten(relion_30(make_star, ["rlnOpticsGroup"], rows))
    assert [group["rlnOpticsGroup"] for group in written["optics"]] == ["1", "3", "2"]
    assert [particle["rlnOpticsGroup"] for particle in written["particles"]] == ["1", "3", "2", "3"]


def test_relion_30_rows_are_grouped_by_what_they_say_however_it_is_written(make_star: Maker) -> None:
    rows = ["1@a.mrcs 10000 300 2.7 0.1 1.5", "2@a.mrcs 10000 300.0 2.70 0.100 1.500"]
    assert len(read_particles(relion_30(make_star, [], rows)).optics) == 1


def test_relion_30_pixel_size_is_that_of_detector_and_magnification(make_star: Maker) -> None:
    columns = ["rlnDetectorPixelSize", "rlnMagnification"]
    path = relion_30(make_star, columns, ["1@a.mrcs 10000 300 2.7 0.1 0.885 5.0 7062.146893"])
    assert read_particles(path).optics[0].pixel_size == pytest.approx(7.08)
    # Another pixel size does not leave the old one in what is written.
    particles = read_particles(path, pixel_size=7.5)
    write_particles_star(path.with_name("out.star"), particles)
    assert read_particles(path.with_name("out.star")).optics[0].pixel_size == 7.5


def test_a_phase_shift_of_the_group_is_written_for_each_particle(make_star: Maker) -> None:
    path = make_star(optics_columns=[*OPTICS_COLUMNS, "rlnPhaseShift"], optics=[f"{OPTICS} 90"])
    np.testing.assert_allclose(read_particles(path).phase_shift, np.pi / 2)
    assert {particle["rlnPhaseShift"] for particle in rewritten(path)["particles"]} == {"90.0"}


def test_another_table_with_groups_is_not_taken_for_the_optics(make_star: Maker) -> None:
    path = make_star()
    path.write_text(
        loop("micrographs", ["rlnMicrographName", "rlnOpticsGroup"], ["a.mrc 1"]) + path.read_text()
    )
    assert read_particles(path).optics[0].pixel_size == 1.5


@pytest.mark.parametrize(
    ("block", "columns", "values"),
    [
        ("\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n", [], []),
        ("", ["rlnTomoParticleName"], ["TS_01/1"]),
        ("", ["rlnTomoVisibleFrames"], ["[1,1,1]"]),
    ],
)
def test_tilt_series_are_refused(make_star: Maker, block: str, columns: list[str], values: list[str]) -> None:
    path = make_star([*COLUMNS, *columns], [" ".join(["1@a.mrcs 1 10000 9000 30", *values])])
    path.write_text(block + path.read_text())
    with pytest.raises(CryogradError, match="the particles are of tilt series"):
        read_particles(path)


def test_single_particles_may_have_been_picked_in_tomograms(make_star: Maker) -> None:
    path = make_star([*COLUMNS, "rlnTomoName"], ["1@a.mrcs 1 10000 9000 30 TS_01"])
    path.write_text("\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 0\n" + path.read_text())
    assert len(read_particles(path)) == 1


def test_a_stack_of_several_images_needs_image_numbers(make_star: Maker) -> None:
    with pytest.raises(CryogradError, match=r"a\.mrcs has no image number, and its file has 4 sections"):
        read_particles(make_star(rows=["a.mrcs 1 10000 9000 30"]))


def test_what_cannot_be_written_is_refused_before(make_star: Maker, tmp_path: Path) -> None:
    particles = read_particles(make_star())
    particles.table["labNote"] = ["a\nb", "", "", ""]
    with pytest.raises(CryogradError, match="a value of labNote cannot stand in a STAR file"):
        refuse_unwritable(tmp_path / "out.star", particles)
    assert not (tmp_path / "out.star").exists()
