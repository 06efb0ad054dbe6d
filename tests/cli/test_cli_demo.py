import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd.occupied import LOCK

from .conftest import FakeEngine, Outcome, tree


def test_the_demonstration_says_where_to_look(
    engine: FakeEngine, cryograd_command: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = cryograd_command("demo", "-o", tmp_path / "demo", "--particles", 50)
    assert outcome.status == 0, outcome.err
    report = tmp_path / "demo/run/report.html"
    assert f"open    {report}" in outcome.out
    assert "<h2>Truth</h2>" in report.read_text()
    comparison = json.loads((tmp_path / "demo/run/comparison.json").read_text())
    assert comparison["poses"]["n_particles"] == 50


def test_a_folder_in_use_is_refused(engine: FakeEngine, refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("demo", "-o", tmp_path).startswith("the output folder is not empty")
    assert tree(tmp_path) == {"notes.txt"}


def test_a_demonstration_that_was_killed_is_begun_anew(
    engine: FakeEngine, cryograd_command: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated/particles.star").write_text("half")
    (tmp_path / LOCK).write_text("process 1 on nowhere")
    outcome = cryograd_command("demo", "-o", tmp_path, "--particles", 50)
    assert outcome.status == 0, outcome.err
    assert not (tmp_path / LOCK).exists()


@pytest.mark.slow
def test_the_demonstration_finds_the_molecule(
    cryograd_command: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = cryograd_command("demo", "-o", tmp_path / "demo", "--json")
    result = json.loads(outcome.out)
    assert result["maps"]["resolution_fsc05_angstrom"] < 16.0
    assert result["maps"]["correlation"] > 0.95
    assert result["poses"]["median_angle_degrees"] < 6.0
    assert result["poses"]["median_shift_angstrom"] < 3.0
