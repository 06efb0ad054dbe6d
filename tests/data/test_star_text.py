"""STAR files as people have them: every value is kept as the characters that stand in the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryograd.data.star import as_numbers, read_star
from cryograd.data.star_text import read_text, write_star
from cryograd.errors import CryogradError
from stars import loop

Maker = Callable[..., Path]


def table(folder: Path, text: str, name: str = "particles") -> pd.DataFrame:
    """One table of a STAR file with a text, in which what is not ASCII is UTF-8."""
    (folder / "a.star").write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_text(folder / "a.star")[name]


def row(folder: Path, line: str) -> list[str]:
    """Values of a row of two columns."""
    return table(folder, loop("particles", ["a", "b"], [line])).iloc[0].tolist()


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("1@Ann's/p.mrcs Grid5'_1.mrc", ["1@Ann's/p.mrcs", "Grid5'_1.mrc"]),
        ("5'_a.mrc 'b c'", ["5'_a.mrc", "b c"]),
        ('\'it\'s here\' "say "no""', ["it's here", 'say "no"']),
        ("1@run#2/p.mrcs b#c", ["1@run#2/p.mrcs", "b#c"]),
        ("a b # of all", ["a", "b"]),
        ("'#1' \"# 2\"", ["#1", "# 2"]),
        ("1@jane@lab/p.mrcs @", ["1@jane@lab/p.mrcs", "@"]),
        ("00255 1E5", ["00255", "1E5"]),
        ("12345678901234567890 nan", ["12345678901234567890", "nan"]),
        ("NA None", ["NA", "None"]),
        ('1.500000 ""', ["1.500000", ""]),
        ("data_3/a.mrc loop_", ["data_3/a.mrc", "loop_"]),
        ("_a.mrc _b.mrc", ["_a.mrc", "_b.mrc"]),
        ("[1,2] ;b", ["[1,2]", ";b"]),
        # Spaces that are not ASCII belong to names.
        ("a\u00a0b c\u2003d", ["a\u00a0b", "c\u2003d"]),
        ("a\x1fb c\x85d", ["a\x1fb", "c\x85d"]),
        ("Gitter_\udcb5m.mrc \u00b5", ["Gitter_\udcb5m.mrc", "\u00b5"]),
        ("\ta\t \tb\t\r", ["a", "b"]),
    ],
)
def test_values_are_kept_as_they_are(tmp_path: Path, line: str, values: list[str]) -> None:
    assert row(tmp_path, line) == values
    # What is written reads the same.
    write_star(tmp_path / "b.star", {"particles": pd.DataFrame([values], columns=["a", "b"], dtype=object)})
    assert read_text(tmp_path / "b.star")["particles"].iloc[0].tolist() == values


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_characters="\n\0"), max_size=12)] * 3),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_is_written_such_that_it_reads_the_same_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.star"
    given_rows = [[text.encode("utf-8", "replace").decode() for text in values] for values in rows]
    try:
        write_star(path, {"particles": pd.DataFrame(given_rows, columns=["a", "b", "c"], dtype=object)})
    except CryogradError:
        assert not path.exists()
    else:
        assert read_text(path)["particles"].to_numpy().tolist() == given_rows


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    path = tmp_path_factory.mktemp("noise") / "a.star"
    text = (loop("optics", ["a", "b"], ["1 '2 3'"]) + loop("particles", ["a", "b"], ["1 2", "3 4"])).encode()
    path.write_bytes(text[:place] + noise + text[place:])
    try:
        tables = read_text(path)
    except CryogradError:
        return
    for block in tables.values():
        assert as_numbers(block).shape == block.shape


def test_bytes_that_are_no_utf8_are_written_as_they_were(tmp_path: Path) -> None:
    text = loop("particles", ["a", "b"], ["Gitter_?m.mrc 1"]).encode().replace(b"?", b"\xb5")
    (tmp_path / "a.star").write_bytes(text)
    write_star(tmp_path / "b.star", read_text(tmp_path / "a.star"))
    assert b"Gitter_\xb5m.mrc\t1\n" in (tmp_path / "b.star").read_bytes()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_and_marks_of_other_systems(tmp_path: Path, ending: str, mark: str) -> None:
    text = loop("particles", ["a", "b"], ["1 2", "", "# between", "3 4"]).replace("\n", ending)
    assert table(tmp_path, mark + text.lstrip()).to_numpy().tolist() == [["1", "2"], ["3", "4"]]


def test_names_with_single_values_are_a_row(tmp_path: Path) -> None:
    text = "data_general\n\n_rlnMask 'a b.mrc' # of the run\n_rlnEmpty\n_rlnBox 64\n"
    found = table(tmp_path, text, "general")
    assert found.to_dict("records") == [{"rlnMask": "a b.mrc", "rlnEmpty": "", "rlnBox": "64"}]


def test_the_names_of_blocks_and_columns_end_where_a_remark_begins(tmp_path: Path) -> None:
    found = table(tmp_path, "data_particles # all\nloop_ # of\n_a #1 [name]\n_b#2\n1 2\n")
    assert list(found.columns) == ["a", "b"]


def test_rows_of_a_table_that_is_there_twice_are_joined(tmp_path: Path) -> None:
    text = loop("particles", ["a", "b"], ["1 2"]) + loop("particles", ["b", "a"], ["4 3", "6 5"])
    found = table(tmp_path, text)
    assert found.to_numpy().tolist() == [["1", "2"], ["3", "4"], ["5", "6"]]
    with pytest.raises(
        CryogradError, match="data_particles is there twice, and only one of the two has the column c"
    ):
        table(tmp_path, text + loop("particles", ["a", "b", "c"], ["1 2 3"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data_a\nloop_\n_x\n_y\n1 2\n3\n",
            "a row of data_a has 1 values, and there are 2 columns, line 6 of",
        ),
        (
            "data_a\nloop_\n_x\n_y\n1 2 3\n",
            "a row of data_a has 3 values, and there are 2 columns, line 5 of",
        ),
        ("data_a\nloop_\n_x\n_y\n1 'b c\n", "quotation mark is not closed, line 5 of"),
        ("data_a\nloop_\n_x\n1\nloop_\n_y\n1\n", "data_a has two tables, line 5 of"),
        ("data_a\n_x 1\nloop_\n_y\n1\n", "data_a has two tables, line 3 of"),
        ("data_a\n_x 1 2\n", "has neither a loop nor a name with one value here: _x 1 2, line 2 of"),
        ("data_a\nhello\n", "has neither a loop nor a name with one value here: hello, line 2 of"),
        ("data_a\nloop_\n_x\n_x\n1 2\n", "a has the column x twice"),
        ("data_a\n_x 1\0\n", "the file is not text"),
        ("data_a\n_x\udcb5 1\n", "a has a column whose name is no text in UTF-8"),
    ],
)
def test_what_is_no_star_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CryogradError, match=message):
        table(tmp_path, text)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CryogradError, match="the file cannot be read"):
        read_text(tmp_path)


def test_a_file_that_was_mended_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = loop("particles", ["a", "b"], ["1 2"])
    Path("p.star").write_text(good.replace("1 2", "1 #2"))
    with pytest.raises(CryogradError):
        read_text(Path("p.star"))
    Path("p.star").write_text(good)
    assert len(read_text(Path("p.star"))["particles"]) == 1
    # Another file of the same name, too.
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    Path("p.star").write_text(good.replace("1 2", "1 2\n3 4"))
    assert len(read_text(Path("p.star"))["particles"]) == 2


def test_columns_of_numbers_may_be_computed_with(tmp_path: Path) -> None:
    columns = ["rlnDefocusU", "rlnMicrographName", "labGrid", "rlnClassNumber", "labScore"]
    path = tmp_path / "a.star"
    path.write_text(loop("particles", columns, ["1.50 007 007 1 nan", "2e1 008 x 2 3"]))
    found = read_star(path)["particles"]
    assert found["rlnDefocusU"].tolist() == [1.5, 20.0]
    assert found["rlnClassNumber"].tolist() == [1, 2]
    assert found["rlnMicrographName"].tolist() == ["007", "008"]
    assert found["labGrid"].tolist() == ["007", "x"]
    np.testing.assert_array_equal(found["labScore"], [np.nan, 3.0])


def test_numbers_are_written_in_their_shortest_form(tmp_path: Path) -> None:
    values = [0.1, 1e-7, 1e22, np.nan, 10000.0]
    path = tmp_path / "a.star"
    table = pd.DataFrame({"a": values, "b": np.array(values, dtype=np.float32), "c": np.arange(5)})
    write_star(path, {"particles": table, "general": {"rlnX": 1.5}})
    assert "0.1\t0.1\t0\n1e-07\t1e-07\t1\n" in path.read_text()
    np.testing.assert_array_equal(read_star(path)["particles"]["a"], values)
    assert starfile.read(path)["general"]["rlnX"] == 1.5
    np.testing.assert_array_equal(starfile.read(path)["particles"]["a"], values)
