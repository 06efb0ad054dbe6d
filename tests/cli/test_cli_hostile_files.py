"""Files in the folder of a run that someone has edited or put there, as `benchmarks/trust/fuzz.py` does."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cryograd.output import checkpoint

from .conftest import FakeEngine, Outcome, tree


@pytest.fixture
def ended(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, simulated: Path, tmp_path: Path
) -> Path:
    """A run that has come to its end."""
    run = tmp_path / "run"
    assert cryograd_command("abinitio", simulated / "particles.star", "-o", run).status == 0
    return run


@contextmanager
def at_once() -> Iterator[None]:
    """Context that must not take long, as it would at a pipe that nobody writes to."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "change",
    [
        {"n_particles": "x"},
        {"box_size": None},
        {"command": "refine"},
        {"findings": 0},
        {"wall_seconds": float("nan")},
        {"seed": float("inf")},
    ],
    ids=str,
)
def test_metrics_that_were_edited_are_written_again(
    cryograd_command: Callable[..., Outcome], ended: Path, change: dict[str, Any]
) -> None:
    before, files = json.loads((ended / "metrics.json").read_text()), tree(ended)
    (ended / "metrics.json").write_text(json.dumps(before | change))
    outcome = cryograd_command("abinitio", "-o", ended, "--resume", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    again = json.loads((ended / "metrics.json").read_text())
    timed = {"wall_seconds": 0.0}
    assert again | timed == before | timed
    assert tree(ended) == files


def test_a_key_that_is_gone_from_the_metrics_is_written_again(
    cryograd_command: Callable[..., Outcome], ended: Path
) -> None:
    metrics = json.loads((ended / "metrics.json").read_text())
    del metrics["iterations"]
    (ended / "metrics.json").write_text(json.dumps(metrics))
    assert cryograd_command("abinitio", "-o", ended, "--resume").status == 0
    assert json.loads((ended / "metrics.json").read_text())["iterations"] == 5


@pytest.mark.parametrize("name", [".volume.mrc.7.tmp", "metrics.json"])
def test_nobody_waits_for_a_pipe(cryograd_command: Callable[..., Outcome], ended: Path, name: str) -> None:
    (ended / name).unlink(missing_ok=True)
    os.mkfifo(ended / name)
    with at_once():
        assert cryograd_command("abinitio", "-o", ended, "--resume").status == 0


@pytest.mark.parametrize(
    "change",
    [
        {"wall_seconds": "x" * 5000},
        {"moment": []},
        {"given": {"the mask": None}},
        {"given": None},
    ],
    ids=lambda change: str(change)[:30],
)
def test_a_checkpoint_that_someone_made_is_refused(
    refused: Callable[..., str], ended: Path, change: dict[str, Any]
) -> None:
    path = ended / "checkpoint/state.pt"
    sound = checkpoint.load(path)
    checkpoint.save(path, checkpoint.Checkpoint(**(vars(sound) | change)))
    (ended / "metrics.json").unlink()
    assert "checkpoint" in refused("abinitio", "-o", ended, "--resume")
