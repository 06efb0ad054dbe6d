"""Conditions on columns: what they mean, and that nothing else is done."""

from collections.abc import Callable

import pytest

from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.selection.columns import Columns
from cryograd.selection.conditions import holds

NAMES = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnClassNumber", "rlnMicrographName", "ownValue"]
ROWS = [
    "1@a.mrcs 1 10000 1 m1.mrc -1.5",
    "2@a.mrcs 1 1.1e4 2.0 m2.mrc nan",
    "3@a.mrcs 1 12000 2 m1.mrc 0",
    "4@a.mrcs 1 13000 3 007 bad",
]


@pytest.fixture
def columns(make_star: Callable) -> Columns:
    return Columns(read_particles(make_star(NAMES, ROWS)))


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("rlnDefocusU > 11000", [2, 3]),
        ("_rlnDefocusU >= 1.1e4", [1, 2, 3]),
        ("rlnClassNumber == 2", [1, 2]),
        ("rlnClassNumber != 2", [0, 3]),
        ("rlnClassNumber in (1, 3)", [0, 3]),
        ("rlnClassNumber not in [2]", [0, 3]),
        ("rlnClassNumber in ()", []),
        ("10500 < rlnDefocusU < 12500", [1, 2]),
        ("not rlnDefocusU < 12000 or rlnClassNumber == 1", [0, 2, 3]),
        ("not (rlnDefocusU < 12000 or rlnClassNumber == 3)", [2]),
        ("rlnDefocusU > 10000 and rlnClassNumber <= 2 and rlnMicrographName == 'm1.mrc'", [2]),
        ('rlnMicrographName != "m1.mrc"', [1, 3]),
        ('rlnMicrographName in ("m2.mrc", "007")', [1, 3]),
        ("'7' == rlnMicrographName", []),
        ("rlnClassNumber == '2'", [2]),
        ("rlnDefocusU - 1000 * rlnClassNumber > 9e3", [2, 3]),
        ("-rlnDefocusU / 2 >= -5000", [0]),
        ("rlnVoltage == 300 and _rlnSphericalAberration == 2.7", [0, 1, 2, 3]),
        ("1 / (rlnClassNumber - 1) < 1e6", [1, 2, 3]),
        ("  2 > 1\n", [0, 1, 2, 3]),
    ],
)
def test_conditions_hold_where_they_should(condition: str, rows: list[int], columns: Columns) -> None:
    assert holds(condition, columns).nonzero()[0].tolist() == rows


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "rlnDefocusU",
        "1",
        "True",
        "(rlnDefocusU > 1",
        "rlnDefocusU > 1)",
        "rlnDefocusU > ",
        "rlnDefocusU = 1",
        "rlnDefocusU := 1",
        "rlnDefocusU > 1; rlnDefocusU < 2",
        "rlnDefocusU > 1 & rlnClassNumber > 1",
        "rlnDefocusU is 1",
        "rlnDefocusU in 1",
        "rlnDefocusU in rlnClassNumber",
        "rlnDefocusU > 'a'",
        "'a' == 'b' + 'c'",
        "rlnDefocusU ** 2 > 1",
        "rlnDefocusU > True",
        "rlnDefocusU > None",
        "rlnDefocusU > 1j",
        "rlnDefocusU[0] > 1",
        "rlnDefocusU.max > 1",
        "len(rlnDefocusU) > 1",
        "__import__('os').system('touch /tmp/x') == 0",
        "(lambda: 1)() == 1",
        "[x for x in (1, 2)] == 1",
        "f'{rlnDefocusU}' == 'a'",
        "rlnDefocusU > 1 if 1 else 0",
        "(yield) > 1",
        "rlnDefocusU > \0",
        "not " * 5000 + "rlnDefocusU > 1",
        "(" * 5000 + "rlnDefocusU > 1" + ")" * 5000,
        "-" * 50000 + "1 > 0",
        "rlnDefocusU > " + "9" * 10000,
        "rlnDefocusU > 1" + "\n" * 3 + "1",
    ],
)
def test_what_is_no_condition_is_refused(condition: str, columns: Columns) -> None:
    with pytest.raises(CryogradError, match=r"condition|text|list|is compares") as caught:
        holds(condition, columns)
    assert caught.value.where.startswith("--where")
    assert len(caught.value.where) < 100


def test_an_unknown_column_is_named_with_the_nearest(columns: Columns) -> None:
    with pytest.raises(
        CryogradError, match=r"there is no column rlnDefokusU, .*, the nearest are rlnDefocusU"
    ):
        holds("rlnDefokusU > 1", columns)
    with pytest.raises(CryogradError, match=r"there is no column zzz, .*it has rlnImageName, "):
        holds("rlnDefocusU > 1 or zzz == 'a'", columns)


def test_text_in_the_place_of_a_number_is_named_with_its_row(columns: Columns) -> None:
    with pytest.raises(CryogradError, match=r"ownValue is no number: bad, row 4 of .*particles\.star"):
        holds("ownValue > 0", columns)
    assert holds("ownValue == 'bad'", columns).tolist() == [False, False, False, True]


def test_a_value_that_is_not_a_number_by_its_own_word_fulfils_nothing(make_star: Callable) -> None:
    columns = Columns(read_particles(make_star(NAMES, ROWS[:3])))
    assert holds("ownValue < 1", columns).tolist() == [True, False, True]
    assert holds("ownValue == ownValue", columns).tolist() == [True, False, True]


def test_bytes_that_are_no_text_are_compared_as_they_are(make_star: Callable) -> None:
    path = make_star(NAMES, ROWS[:3])
    path.write_bytes(path.read_bytes().replace(b"m2.mrc", b"\xb5.mrc"))
    columns = Columns(read_particles(path))
    assert holds("rlnMicrographName != 'm1.mrc'", columns).tolist() == [False, True, False]
    with pytest.raises(CryogradError, match="rlnMicrographName is no number"):
        holds("rlnMicrographName > 1", columns)
