"""Particles that their images contradict: runs that do not begin, and runs that are made to."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd.data.star import read_star, write_star

from .conftest import FakeEngine, Outcome


@pytest.mark.parametrize("command", ["abinitio", "reconstruct"])
def test_dark_protein_ends_a_run_before_it_begins(
    refused: Callable, simulated: Path, tmp_path: Path, command: str
):
    given = simulated / "particles.star"
    said = refused(command, given, "-o", tmp_path / "run", "--invert-contrast")
    assert said == (
        f"the protein is dark in the images, {given}, leave out --invert-contrast; --force reconstructs all "
        "the same"
    )
    assert not (tmp_path / "run").exists()


def test_a_defocus_of_the_wrong_sign_ends_a_run(refused: Callable, simulated: Path, tmp_path: Path) -> None:
    tables = read_star(simulated / "particles.star")
    for name in ("rlnDefocusU", "rlnDefocusV"):
        tables["particles"][name] = -tables["particles"][name].astype(float)
    (tmp_path / "particles.mrcs").write_bytes((simulated / "particles.mrcs").read_bytes())
    write_star(tmp_path / "particles.star", tables)
    said = refused("abinitio", tmp_path / "particles.star", "-o", tmp_path / "run")
    assert said.startswith("24 of 24 particles have no underfocus, which is positive")


def test_a_run_that_is_forced_says_so_and_is_not_believed(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, simulated: Path, tmp_path: Path
) -> None:
    given = (simulated / "particles.star", "--invert-contrast", "--force")
    outcome = cryograd_command("abinitio", *given, "-o", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "! the protein is dark in the images; leave out --invert-contrast" in outcome.out
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["findings"][0]["key"], metrics["believed"]) == ("contrast_inverted", False)
    page = (tmp_path / "run/report.html").read_text()
    assert "not to be believed: the protein is dark in the images" in page


def test_a_run_that_was_forced_goes_on_without_being_told_again(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, simulated: Path, tmp_path: Path
) -> None:
    def stop(iteration: int) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    engine.before_iteration = stop
    given = (simulated / "particles.star", "--invert-contrast", "--force", "--checkpoint-seconds", 0)
    assert cryograd_command("abinitio", *given, "-o", tmp_path / "run").status == 130
    engine.before_iteration = lambda iteration: None
    outcome = cryograd_command("abinitio", "-o", tmp_path / "run", "--resume")
    assert outcome.status == 0, outcome.err
    assert "! the protein is dark" in outcome.out
