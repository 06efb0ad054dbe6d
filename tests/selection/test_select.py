"""Particles that are kept, by each criterion and by several."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryograd
from cryograd import CryogradError
from cryograd.data.read import read_particles
from cryograd.data.star_text import read_text
from stars import COLUMNS, loop

NAMES = [
    *COLUMNS,
    "rlnClassNumber",
    "rlnRandomSubset",
    "cryogradJunkProbability",
    "rlnMicrographName",
    "rlnCoordinateX",
    "rlnCoordinateY",
]
ROWS = [
    "1@a.mrcs 1 10000 9000 30  1 1 0.10  m.mrc 100 100",
    "2@a.mrcs 1 11000 9000 30  2 2 0.50  m.mrc 105 100",
    "3@a.mrcs 1 12000 9000 30  2 1 0.900 m.mrc 300 100",
    "4@a.mrcs 1 13000 9000 30  3 2 0     n.mrc 100 100",
    "3@a.mrcs 1 14000 9000 30  3 1 1E-3  n.mrc 900 900",
]


@pytest.fixture
def star(make_star: Callable) -> Path:
    return make_star(NAMES, ROWS)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"where": "rlnDefocusU > 11000"}, [2, 3, 4]),
        ({"class_number": 2}, [1, 2]),
        ({"half": 1}, [0, 2, 4]),
        ({"max_junk": 0.5}, [0, 1, 3, 4]),
        ({"remove_duplicates": 0}, [0, 1, 2, 3]),
        # The file does not say the micrographs' pixel size, which is taken to be 1.5 Å.
        ({"remove_duplicates": 7.4}, [0, 1, 2, 3]),
        ({"remove_duplicates": 7.6}, [0, 2, 3]),
        ({"where": "rlnDefocusU > 10000", "remove_duplicates": 20}, [1, 2, 3]),
        ({"max_junk": 0.5, "half": 1, "remove_duplicates": 20}, [0, 4]),
        ({"random": 5}, [0, 1, 2, 3, 4]),
    ],
)
def test_each_criterion_keeps_what_it_should(options: dict[str, Any], rows: list[int], star: Path) -> None:
    found = cryograd.select(star, **options)
    assert found.rows.tolist() == rows
    assert found.particles.defocus_u.tolist() == [10000.0 + 1000.0 * row for row in rows]
    assert sum(found.dropped.values()) == 5 - len(rows)
    assert list(found.dropped) == [name for name in found.dropped if name in options]


def test_what_is_written_has_every_column_as_it_was(star: Path) -> None:
    output = star.parent / "new.star"
    found = cryograd.select(star, output=output, max_junk=0.5, where="rlnDefocusU < 13500")
    assert found.rows.tolist() == [0, 1, 3]
    before, after = read_text(star), read_text(output)
    assert after["optics"].equals(before["optics"])
    assert after["particles"].equals(before["particles"].iloc[[0, 1, 3]].reset_index(drop=True))


def test_images_are_found_from_another_folder(star: Path, tmp_path: Path) -> None:
    output = tmp_path.parent / f"{tmp_path.name}-other" / "new.star"
    cryograd.select(star, output=output, class_number=3)
    before, after = (read_particles(path) for path in (star, output))
    assert np.array_equal(after.images([0, 1]), before.images([3, 4]))
    without = before.table.iloc[3:].drop(columns="rlnImageName").reset_index(drop=True)
    assert after.table.drop(columns="rlnImageName").equals(without)


def test_images_need_not_be_there(star: Path) -> None:
    (star.parent / "a.mrcs").unlink()
    cryograd.select(star, output=star.parent / "new.star", half=2)
    table = read_text(star.parent / "new.star")["particles"]
    assert table["rlnImageName"].tolist() == ["2@a.mrcs", "4@a.mrcs"]


def test_random_particles_are_those_of_the_seed(star: Path) -> None:
    drawn = [tuple(cryograd.select(star, random=2, seed=seed).rows) for seed in range(20)]
    assert drawn == [tuple(cryograd.select(star, random=2, seed=seed).rows) for seed in range(20)]
    assert all(len(set(rows)) == 2 and list(rows) == sorted(rows) for rows in drawn)
    assert len(set(drawn)) > 4
    assert set(cryograd.select(star, half=2, random=1, seed=3).rows) <= {1, 3}


def test_the_largest_probability_is_the_class_where_no_number_is(make_star: Callable) -> None:
    names = [*COLUMNS, "cryogradClassProbability1", "cryogradClassProbability2"]
    rows = [f"{i}@a.mrcs 1 1e4 9000 30 {p} {1 - p}" for i, p in ((1, 0.9), (2, 0.2), (3, 0.75))]
    path = make_star(names, rows)
    assert cryograd.select(path, class_number=2).rows.tolist() == [1]
    assert cryograd.select(path, class_number=1).rows.tolist() == [0, 2]
    with pytest.raises(CryogradError, match=r"no particle is of class 3, .*, give one of 1, 2$"):
        cryograd.select(path, class_number=3)


def test_lists_keep_and_drop(star: Path) -> None:
    folder = star.parent
    (folder / "list.txt").write_text("# good ones\n000003@a.mrcs\n\n  1@a.mrcs \r\n")
    found = cryograd.select(star, list=folder / "list.txt")
    assert (found.rows.tolist(), found.unknown) == ([0, 2, 4], {"list": ()})
    assert cryograd.select(star, exclude=folder / "list.txt").rows.tolist() == [1, 3]
    # Files as runs write them: poses without optics, and paths from elsewhere.
    (folder / "x").mkdir()
    poses = ["4@../a.mrcs 1", f"1@{folder}/a.mrcs 1", "1@../a.mrcs 2"]
    (folder / "x/poses.star").write_text(loop("poses", ["rlnImageName", "cryogradPoseRank"], poses))
    assert cryograd.select(star, list=folder / "x/poses.star").rows.tolist() == [0, 3]
    both = cryograd.select(star, list=folder / "list.txt", exclude=folder / "x/poses.star")
    assert both.rows.tolist() == [2, 4]
    assert both.dropped == {"list": 2, "exclude": 1}


def test_a_list_from_elsewhere_says_the_names_as_they_are(star: Path, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("elsewhere") / "list"
    path.write_text("2@a.mrcs\n9@a.mrcs\n2@b.mrcs\n")
    found = cryograd.select(star, list=path)
    assert (found.rows.tolist(), found.unknown) == ([1], {"list": ("9@a.mrcs", "2@b.mrcs")})
    # Where a stack of this name lies beside the list, that one is meant.
    (path.parent / "a.mrcs").write_bytes((star.parent / "a.mrcs").read_bytes())
    with pytest.raises(CryogradError, match=r"none of its 3 images, such as 2@a.mrcs, is one of "):
        cryograd.select(star, list=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the list names no image"),
        (b"# nothing\n\n", "the list names no image"),
        (b"1@a.mrcs\n\0\n", "the list is not text"),
        (b"0@a.mrcs\n", "has no valid image number"),
        (b"1@b.mrcs\n", "none of its 1 images"),
        (b"\xff\n", "none of its 1 images"),
    ],
)
def test_bad_lists_are_refused(content: bytes, message: str, star: Path) -> None:
    path = star.parent / "list.txt"
    path.write_bytes(content)
    for name in ("list", "exclude"):
        with pytest.raises(CryogradError, match=message):
            cryograd.select(star, **{name: path, "output": star.parent / "new.star"})
    assert not (star.parent / "new.star").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "rlnDefocusU > 99999"}, "no particle would be left, .*, ask for less; .* by where 5$"),
        ({"half": 1, "where": "rlnClassNumber == 2", "max_junk": 0.4}, "dropped .* by where 3, max junk 2$"),
        ({"class_number": 4}, "no particle is of class 4, .*, give one of 1, 2, 3"),
        ({"random": 6}, "6 particles are asked for, and 5 are left, --random"),
        ({"seed": 3}, "nothing looks at it without --random, --seed"),
        ({"half": 3}, "bad value 3, cryograd.select --half"),
        ({"remove_duplicates": -1}, "bad value -1, cryograd.select --remove-duplicates"),
        ({"max_junk": 2}, "bad value 2, cryograd.select --max-junk"),
        ({"wher": "a > 1"}, "did you mean where"),
        ({"list": "absent.txt"}, "the list of images does not exist, absent.txt"),
        ({"output": "new.mrcs"}, "no STAR file by its name, .*new.mrcs"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, Any], message: str, star: Path) -> None:
    before = sorted(star.parent.iterdir())
    output = star.parent / options.get("output", "new.star")
    with pytest.raises(CryogradError, match=message):
        cryograd.select(star, **options | {"output": output})
    assert sorted(star.parent.iterdir()) == before


def test_columns_that_are_not_there_are_named(make_star: Callable) -> None:
    star = make_star()
    for options, name in (({"max_junk": 0.5}, "cryogradJunkProbability"), ({"half": 1}, "rlnRandomSubset")):
        with pytest.raises(CryogradError, match=f"there is no column {name}"):
            cryograd.select(star, **options)
    with pytest.raises(CryogradError, match="there is no column rlnClassNumber"):
        cryograd.select(star, class_number=1)


def test_particles_in_memory_are_selected_too(star: Path) -> None:
    particles = read_particles(star).select([4, 3, 2])
    found = cryograd.select(particles, where="rlnDefocusU < 13500", output=star.parent / "new.star")
    assert found.rows.tolist() == [1, 2]
    assert read_particles(star.parent / "new.star").image_index.tolist() == [3, 2]
    again = cryograd.select(replace(found.particles, invert_contrast=True), random=1)
    assert again.particles.invert_contrast


def test_copies_without_coordinates_are_told_by_their_noise(make_star: Callable) -> None:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((8, 32, 32)).astype(np.float32)
    stack = np.concatenate([images, 2.0 * images[:3]])
    optics = ["opticsGroup1 1 300.0 2.7 0.1 4.0 32"]
    star = make_star(rows=[f"{i}@a.mrcs 1 1e4 9000 30" for i in range(1, 12)], optics=optics, stack=stack)
    assert cryograd.select(star, remove_duplicates=20).rows.tolist() == list(range(8))
    assert cryograd.select(star, remove_duplicates=0).rows.tolist() == list(range(11))
    later = cryograd.select(star, remove_duplicates=20, where="not rlnImageName == '1@a.mrcs'")
    assert later.rows.tolist() == list(range(1, 9))
    assert cryograd.select(read_particles(star), remove_duplicates=20).rows.tolist() == list(range(8))
    unsized = replace(read_particles(star), optics=(replace(read_particles(star).optics[0], box_size=0),))
    with pytest.raises(CryogradError, match="has box size 0"):
        cryograd.select(unsized, remove_duplicates=20)
    (star.parent / "a.mrcs").unlink()
    with pytest.raises(CryogradError, match=r"the image stack a.mrcs does not exist"):
        cryograd.select(star, remove_duplicates=20)
    assert len(cryograd.select(star, remove_duplicates=0).rows) == 11
