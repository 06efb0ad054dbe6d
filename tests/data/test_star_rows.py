"""Some rows of a STAR file, of which all else stays as it is."""

from pathlib import Path

import pytest

from cryograd.data.star_text import read_text, write_rows
from cryograd.errors import CryogradError
from stars import loop

NAMES = ["rlnImageName", "ownText", "rlnDefocusU"]
ROWS = ["1@a.mrcs  'it is'\t1E5   # kept as it is", "2@a.mrcs 007 10000", "3@b.mrcs nan 1"]


def written(path: Path, *blocks: str) -> Path:
    path.write_bytes(("# by hand\n\n" + "".join(blocks)).encode("utf-8", "surrogateescape"))
    return path


def test_all_else_stays_character_for_character(tmp_path: Path) -> None:
    other = "\ndata_general\n\n_rlnOne  1 # a remark\n_ownTwo 'two words'\n"
    path = written(
        tmp_path / "a.star", other, loop("particles", NAMES, ROWS), loop("tail", ["x"], ["1", "2"])
    )
    write_rows(tmp_path / "new" / "b.star", path, "particles", {0, 2}, {})
    lines = path.read_text().split("\n")
    assert (tmp_path / "new" / "b.star").read_text().split("\n") == [x for x in lines if "2@a.mrcs" not in x]
    write_rows(tmp_path / "all.star", path, "particles", {0, 1, 2}, {})
    assert (tmp_path / "all.star").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_line_ends_marks_and_bytes_stay(start: bytes, ending: bytes, tmp_path: Path) -> None:
    text = loop("", ["rlnImageName", "rlnMicrographName"], ["1@a.mrcs \udcb5m.mrc", "2@a.mrcs b.mrc"])
    content = start + text.encode("utf-8", "surrogateescape").replace(b"\n", ending)
    (tmp_path / "a.star").write_bytes(content)
    write_rows(tmp_path / "b.star", tmp_path / "a.star", "", {0}, {})
    assert (tmp_path / "b.star").read_bytes() == content.replace(b"2@a.mrcs b.mrc" + ending, b"")


def test_rows_of_joined_tables_are_counted_on(tmp_path: Path) -> None:
    second = loop("particles", NAMES[::-1], ["5 x 4@b.mrcs", "6 y 5@b.mrcs"])
    path = written(tmp_path / "a.star", loop("particles", NAMES, ROWS), second)
    write_rows(tmp_path / "b.star", path, "particles", {0, 4}, {4: "5@/far off/b.mrcs"})
    table = read_text(tmp_path / "b.star")["particles"]
    assert table["rlnImageName"].tolist() == ["1@a.mrcs", "5@/far off/b.mrcs"]
    assert table["ownText"].tolist() == ["it is", "y"]
    assert table["rlnDefocusU"].tolist() == ["1E5", "6"]


def test_only_the_name_of_an_image_is_changed(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.star", loop("particles", ["ownText", "rlnImageName"], ["'a  b'   1@a.mrcs\t#x"])
    )
    write_rows(tmp_path / "b.star", path, "particles", {0}, {0: "1@/a.mrcs"})
    assert (tmp_path / "b.star").read_text() == path.read_text().replace("1@a.mrcs", "1@/a.mrcs")


def test_a_table_that_is_no_loop_has_one_row(tmp_path: Path) -> None:
    path = written(tmp_path / "a.star", "data_particles\n_ownText x\n_rlnImageName 1@a.mrcs\n")
    write_rows(tmp_path / "b.star", path, "particles", {0}, {0: "1@/b.mrcs"})
    assert (tmp_path / "b.star").read_text() == path.read_text().replace("1@a.mrcs", "1@/b.mrcs")


def test_a_name_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.star", loop("particles", NAMES, ROWS))
    with pytest.raises(CryogradError, match="cannot stand in a STAR file"):
        write_rows(tmp_path / "b.star", path, "particles", {0}, {0: "1@/a' \" b.mrcs"})
    assert [found.name for found in tmp_path.iterdir()] == ["a.star"]
