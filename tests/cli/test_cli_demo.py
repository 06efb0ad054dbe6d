import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cryograd import library
from cryograd.occupied import LOCK
from cryograd.results import Result

from .conftest import FILES, FakeEngine, Outcome, tree


@pytest.fixture
def quick(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the reconstruction of the demonstration, which claims 20 Å."""

    def reconstruct(*arguments: Any, **options: Any) -> Result:
        result = library.abinitio(*arguments, **options)
        return replace(result, metrics=result.metrics | {"resolution_fsc143_angstrom": 20.0})

    monkeypatch.setattr(library, "reconstruct", reconstruct)


def test_the_demonstration_says_where_to_look(
    quick: None, cryograd_command: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = cryograd_command("demo", "-o", tmp_path / "demo", "--particles", 50)
    assert outcome.status == 0, outcome.err
    report = tmp_path / "demo/run/report.html"
    assert f"open    {report}" in outcome.out
    assert "20.0 Å by the half maps" in outcome.out
    assert "<h2>Truth</h2>" in report.read_text()
    comparison = json.loads((tmp_path / "demo/run/comparison.json").read_text())
    assert comparison["poses"]["n_particles"] == 50


def test_a_folder_in_use_is_refused(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("demo", "-o", tmp_path).startswith("the output folder is not empty")
    assert tree(tmp_path) == {"notes.txt"}


def test_a_demonstration_that_was_killed_is_begun_anew(
    quick: None, cryograd_command: Callable[..., Outcome], tmp_path: Path
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
    claimed, found = (
        result["metrics"]["resolution_fsc143_angstrom"],
        result["maps"]["resolution_fsc05_angstrom"],
    )
    assert result["metrics"]["shared"]["start_map"] == "of all particles"
    assert tree(tmp_path / "demo/run") == FILES | {"truth.mrc", "comparison.json"}
    assert found < 16.0
    assert claimed == pytest.approx(found, rel=0.15)
    assert result["maps"]["correlation"] > 0.95
    assert result["poses"]["median_angle_degrees"] < 6.0
    assert result["poses"]["median_shift_angstrom"] < 3.0
