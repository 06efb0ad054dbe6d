import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd.data.cryosparc import read_cryosparc_tables
from cryograd.data.read import read_particles
from cryograd.data.star_text import read_text

from .conftest import tree


@pytest.fixture
def star(simulated: Path, tmp_path: Path) -> Path:
    for name in ("particles.star", "particles.mrcs"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    return tmp_path / "particles.star"


def test_it_says_how_many_each_criterion_drops(star: Path, cryograd_command: Callable) -> None:
    output = star.parent / "new.star"
    (star.parent / "list").write_text("1@particles.mrcs\n77@particles.mrcs\n")
    command = ("select", star, "-o", output, "--half", 1, "--exclude", star.parent / "list", "--random", 5)
    outcome = cryograd_command(*command, "--seed", 3)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines() == [
        "--exclude dropped 1",
        "--half dropped 12",
        "--random dropped 6",
        "! 1 of the names in --exclude is not among the particles, such as 77@particles.mrcs",
        "5 of 24 particles kept",
        f"particles  {output}",
    ]
    assert len(read_particles(output)) == 5
    found = json.loads(cryograd_command(*command, "--overwrite", "--json").out)
    assert (found["n_particles"], found["n_kept"]) == (24, 5)
    assert found["dropped"] == {"exclude": 1, "half": 12, "random": 6}
    assert found["unknown"] == {"exclude": ["77@particles.mrcs"]}


def test_options_are_spelt_as_they_are_typed(star: Path, cryograd_command: Callable, tmp_path: Path) -> None:
    text = star.read_text().replace("_rlnRandomSubset", "_rlnClassNumber")
    star.write_text(text)
    outcome = cryograd_command("select", star, "-o", tmp_path / "a.star", "--class", 2)
    assert outcome.out.startswith("--class dropped 12\n12 of 24 particles kept\n")


def test_an_output_that_is_there_is_kept(star: Path, refused: Callable, cryograd_command: Callable) -> None:
    output = star.parent / "new.star"
    output.write_text("precious")
    command = ("select", star, "-o", output, "--half", 1)
    message = refused(*command)
    assert message == f"the output file is there already, {output}, choose another name, or add --overwrite"
    assert output.read_text() == "precious"
    assert "no particle would be left" in refused(*command, "--where", "rlnDefocusU < 0", "--overwrite")
    assert output.read_text() == "precious"
    assert cryograd_command(*command, "--overwrite").status == 0
    assert len(read_particles(output)) == 12


def test_inputs_are_not_overwritten(star: Path, refused: Callable) -> None:
    listed = star.parent / "list.star"
    listed.write_text("\ndata_\nloop_\n_rlnImageName\n1@particles.mrcs\n")
    before = {path: path.read_bytes() for path in star.parent.iterdir()}
    for output in (star, listed):
        message = refused("select", star, "-o", output, "--list", listed, "--overwrite")
        assert message.startswith("the output file is an input")
    stack = star.parent / "particles.mrcs"
    assert "no STAR file by its name" in refused("select", star, "-o", stack, "--overwrite")
    assert {path: path.read_bytes() for path in star.parent.iterdir()} == before


@pytest.mark.parametrize(
    "condition", ["(rlnDefocusU > 1", "open('x', 'w') == 1", "rlnDefokusU > 1", "\x1b[2J"]
)
def test_bad_conditions_leave_nothing(condition: str, star: Path, refused: Callable) -> None:
    before = tree(star.parent)
    message = refused("select", star, "-o", star.parent / "sub" / "new.star", "--where", condition)
    assert "\x1b" not in message
    assert tree(star.parent) == before


def test_an_output_is_asked_for(star: Path, refused: Callable) -> None:
    assert refused("select", star, "--half", 1).startswith("--output is missing, cryograd select")


def test_particles_of_cryosparc_become_a_star_file(
    shared_data: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    source = shared_data / "metadata/cs/cryosparc_P12_J24_001_particles.cs"
    output = tmp_path / "new.star"
    outcome = cryograd_command("select", source, "-o", output, "--half", 1, "--where", "rlnDefocusU < 15000")
    assert outcome.status == 0, outcome.err
    table = read_cryosparc_tables(source)[1]
    expected = table[(table["rlnRandomSubset"] == 1) & (table["rlnDefocusU"] < 15000)]
    written = read_text(output)["particles"]
    assert written["cryosparcUid"].tolist() == expected["cryosparcUid"].astype(str).tolist()
    again = read_particles(output, require_images=False)
    assert again.defocus_u == pytest.approx(expected["rlnDefocusU"])
    assert again.half_set is not None
    assert (again.half_set == 1).all()


@pytest.mark.realdata
def test_real_particles_are_selected_text_for_text(
    shared_data: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    folder = shared_data / "bgal-10204"
    output, rest = tmp_path / "new.star", tmp_path / "rest.star"
    whole = folder / "particles_all_2374.star"
    assert (
        cryograd_command("select", whole, "-o", output, "--where", "rlnAutopickFigureOfMerit > 0.16").status
        == 0
    )
    before, after = (read_text(path)["particles"] for path in (whole, output))
    kept = before[before["rlnAutopickFigureOfMerit"].astype(float) > 0.16].reset_index(drop=True)
    assert 0 < len(kept) < len(before)
    assert after.drop(columns="rlnImageName").equals(kept.drop(columns="rlnImageName"))
    clean = folder / "particles_clean_1268.star"
    outcome = cryograd_command("select", whole, "-o", rest, "--exclude", clean)
    assert outcome.out.startswith("--exclude dropped 1268\n1106 of 2374 particles kept\n")
