"""Names of images in a particle file: their numbers, and where their stacks are looked for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryograd.data.image_names import locate_images, names_from, resolve_stack, split_image_names
from cryograd.errors import CryogradError
from stacks import write_stack

SOURCE = Path("/project/Extract/job3/particles.star")


def split(names: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Stack names, and each image's stack and number, of a column of names."""
    return split_image_names(pd.DataFrame({"rlnImageName": names}), SOURCE)


def test_image_names_are_split() -> None:
    names = ["000003@Extract/a.mrcs", "1@b.mrcs", "7@Extract/a.mrcs", "single.mrc"]
    stacks, stack, image = split(names)
    assert stacks == ["Extract/a.mrcs", "b.mrcs", "single.mrc"]
    np.testing.assert_array_equal(stack, [0, 1, 0, 2])
    np.testing.assert_array_equal(image, [2, 0, 6, -1])


@pytest.mark.parametrize(
    ("name", "stack", "image"),
    [
        ("000001@jane@lab.example/job007/p.mrcs", "jane@lab.example/job007/p.mrcs", 0),
        ("12@/home/jane@lab/x@y.mrcs", "/home/jane@lab/x@y.mrcs", 11),
        # Digits do not stand before the first sign, so that it is part of the name.
        ("jane@lab.example/p.mrc", "jane@lab.example/p.mrc", -1),
        ("/data/1@2/p.mrc", "/data/1@2/p.mrc", -1),
        ("x1@a.mrc", "x1@a.mrc", -1),
        ("²@a.mrc", "²@a.mrc", -1),
    ],
)
def test_the_number_stands_before_the_first_at_sign(name: str, stack: str, image: int) -> None:
    stacks, _, numbers = split([name])
    assert (stacks, numbers.tolist()) == ([stack], [image])


def test_a_name_alone_is_that_of_one_image(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((6, 8, 8), dtype=np.float32)
    write_stack(tmp_path / "one.mrc", images[:1], 1.5)
    write_stack(tmp_path / "tilts.mrcs", images, 1.5)
    source = tmp_path / "particles.star"
    _, _, numbers = locate_images(pd.DataFrame({"rlnImageName": ["one.mrc"]}), source, True)
    assert numbers.tolist() == [0]
    with pytest.raises(CryogradError, match=r"tilts\.mrcs has no image number, and its file has 6 sections"):
        locate_images(pd.DataFrame({"rlnImageName": ["one.mrc", "tilts.mrcs"]}), source, True)


def test_a_name_that_is_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(CryogradError, match="does not exist"):
        resolve_stack("x" * 5000 + ".mrcs", SOURCE)


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("1@a.mrc:mrcs", "a.mrc"),
        ("1@a.mrc:mrc", "a.mrc"),
        ("1@a:b.mrcs", "a:b.mrcs"),
        ("a.mrc:mrcs", "a.mrc"),
    ],
)
def test_suffixes_that_force_a_format_are_dropped(name: str, stack: str) -> None:
    assert split([name])[0] == [stack]


@pytest.mark.parametrize("name", ["0@a.mrcs", "000000@a.mrcs", "9999999999@a.mrcs", "9" * 5000 + "@a.mrcs"])
def test_image_numbers_that_are_none_are_named(name: str) -> None:
    with pytest.raises(CryogradError) as error:
        split(["1@a.mrcs", name])
    # Of a name that nobody would read the beginning is said.
    assert error.value.what.startswith(f"rlnImageName {name[:300]}")
    assert error.value.what.endswith("@a.mrcs has no valid image number")
    assert len(error.value.what) <= 500
    assert error.value.where == f"row 2 of {SOURCE}"
    assert error.value.remedy == "write it as N@stack.mrcs with N from 1"


def test_a_stack_that_is_absent_is_refused_with_the_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "a" / "b" / "c" / "particles.star"
    with pytest.raises(CryogradError, match=r"the image stack s\.mrcs does not exist") as error:
        resolve_stack("s.mrcs", source)
    places = [tmp_path, *(source.parents[i] for i in range(3))]
    assert ", ".join(str(place / "s.mrcs") for place in places) in error.value.where
    assert error.value.where.endswith(" and the folders above)")


def test_the_current_folder_counts_before_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, here = tmp_path / "project" / "job" / "particles.star", tmp_path / "here"
    for folder in (tmp_path, source.parents[1], source.parent, here):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "s.mrcs").touch()
    monkeypatch.chdir(here)
    for folder in (here, source.parent, source.parents[1], tmp_path):
        assert resolve_stack("s.mrcs", source) == folder / "s.mrcs"
        (folder / "s.mrcs").unlink()


def test_an_absolute_name_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s.mrcs").touch()
    assert resolve_stack(str(tmp_path / "s.mrcs"), SOURCE) == tmp_path / "s.mrcs"


def test_stacks_that_another_file_would_not_find_get_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.ones((1, 4, 4), dtype=np.float32)
    for name in ("project/job/own.mrcs", "project/all.mrcs", "project/one.mrc", "project/new/all2.mrcs"):
        write_stack(tmp_path / name, image, 1.0)
    write_stack(tmp_path / "project/job/all2.mrcs", image, 1.0)
    names = ["01@own.mrcs", "1@all.mrcs", "1@gone.mrcs", "2@own.mrcs:mrcs", "1@all2.mrcs"]
    table = pd.DataFrame({"rlnImageName": names})
    source = tmp_path / "project/job/p.star"
    found = names_from(table, source, tmp_path / "project/new/p.star")
    own, other = tmp_path / "project/job/own.mrcs", tmp_path / "project/job/all2.mrcs"
    # Where another stack has the name, it would be taken for the one that is meant.
    assert found == {0: f"01@{own}", 3: f"2@{own}", 4: f"1@{other}"}
    assert names_from(table, source, tmp_path / "project/job/q.star") == {}
    alone = names_from(
        pd.DataFrame({"rlnImageName": ["one.mrc"]}), tmp_path / "project/p.star", tmp_path / "q"
    )
    assert alone == {0: str(tmp_path / "project/one.mrc")}
