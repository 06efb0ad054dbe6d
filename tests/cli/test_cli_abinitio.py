import contextlib
import json
import os
import signal
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryograd.data.mrc import read_map
from cryograd.data.read import read_particles
from cryograd.engine.frame import taken_out
from cryograd.engine.state import State
from cryograd.errors import CryogradError
from cryograd.output import checkpoint

from .conftest import BOX, ITERATIONS, PIXEL_SIZE, FakeEngine, Outcome, tree

FILES = {
    "run.toml",
    "log.jsonl",
    "volume.mrc",
    "mask.mrc",
    "particles.star",
    "metrics.json",
    "report.html",
    "checkpoint",
    "checkpoint/state.pt",
}


@pytest.fixture
def abinitio(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, simulated: Path
) -> Callable[..., Outcome]:
    """Run ``cryograd abinitio`` on the simulated particles with the stand-in for the engine."""

    def run(output: Path, *arguments: object) -> Outcome:
        return cryograd_command("abinitio", simulated / "particles.star", "-o", output, *arguments)

    return run


def saved_state(folder: Path) -> dict[str, Any]:
    """The state in the checkpoint of the run in a folder."""
    return checkpoint.load(folder / "run/checkpoint/state.pt").moment["state"]


def log_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_its_files(abinitio: Callable, tmp_path: Path) -> None:
    outcome = abinitio(tmp_path / "deep" / "run", "--seed", 3)
    assert outcome.status == 0, outcome.err
    assert tree(tmp_path / "deep" / "run") == FILES
    assert "report.html" in outcome.out


def test_nothing_is_printed_on_standard_error_without_a_terminal(abinitio: Callable, tmp_path: Path) -> None:
    assert abinitio(tmp_path / "run").err == ""


def test_metrics_hold_what_is_promised(abinitio: Callable, tmp_path: Path) -> None:
    metrics = json.loads(abinitio(tmp_path / "run", "--seed", 3, "--symmetry", "c2", "--json").out)
    assert metrics.pop("output") == str(tmp_path / "run")
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    promised = {
        "resolution_fsc143_angstrom": None,
        "n_particles": 24,
        "box_size": 16,
        "pixel_size_angstrom": 4.0,
        "symmetry": "C2",
        "seed": 3,
        "iterations": ITERATIONS,
        "device": "cpu",
        "stage_seconds": {"score": 0.25 * ITERATIONS, "step": 0.5 * ITERATIONS},
        "resolution_march_angstrom": BOX * PIXEL_SIZE / ITERATIONS,
        "findings": [],
    }
    assert {key: metrics[key] for key in promised} == promised
    assert metrics["wall_seconds"] > 0.0


def test_every_particle_has_a_pose_in_the_output(abinitio: Callable, tmp_path: Path, simulated: Path) -> None:
    abinitio(tmp_path / "run")
    before, after = (
        read_particles(simulated / "particles.star"),
        read_particles(tmp_path / "run/particles.star"),
    )
    saved = saved_state(tmp_path)["table"]
    assert len(after) == len(before)
    np.testing.assert_allclose(after.rotations, saved["top_rotations"][:, 0], atol=1e-6)
    np.testing.assert_allclose(after.shifts, saved["top_shifts"][:, 0], atol=1e-6)
    np.testing.assert_allclose(after.table["cryogradPoseEntropy"].astype(float), saved["entropy"], atol=1e-6)
    np.testing.assert_array_equal(after.defocus_u, before.defocus_u)
    np.testing.assert_array_equal(after.images(np.arange(24)), before.images(np.arange(24)))


def test_classes_leave_their_maps_and_the_particles_probabilities(abinitio: Callable, tmp_path: Path) -> None:
    outcome = abinitio(tmp_path / "run", "--classes", 3)
    assert outcome.status == 0, outcome.err
    assert tree(tmp_path / "run") == FILES | {
        f"class{k}{name}" for k in (1, 2, 3) for name in ("", "/volume.mrc", "/particles.star")
    }
    saved = saved_state(tmp_path)["table"]["classes"].numpy()
    table = read_particles(tmp_path / "run/particles.star").table
    written = table[[f"cryogradClassProbability{k}" for k in (1, 2, 3)]].to_numpy(dtype=float)
    np.testing.assert_allclose(written, saved)
    np.testing.assert_array_equal(table["rlnClassNumber"].astype(int), 1 + saved.argmax(axis=1))
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    np.testing.assert_allclose(metrics["class_populations"], saved.mean(axis=0))
    assert (
        f"class 3    {tmp_path}/run/class3/volume.mrc, {saved[:, 2].mean():.0%} of the particles"
        in outcome.out
    )


def test_one_map_leaves_no_classes(abinitio: Callable, tmp_path: Path) -> None:
    abinitio(tmp_path / "run")
    assert "class_populations" not in json.loads((tmp_path / "run/metrics.json").read_text())
    assert "rlnClassNumber" not in read_particles(tmp_path / "run/particles.star").table


def test_the_record_says_what_was_asked(abinitio: Callable, tmp_path: Path) -> None:
    abinitio(tmp_path / "run", "--seed", 3, "--max-shift", 9)
    settings = tomllib.loads((tmp_path / "run/run.toml").read_text())
    assert (settings["seed"], settings["max_shift"], settings["prior"]) == (3, 9.0, "exponential")


def test_the_log_has_a_row_an_iteration(abinitio: Callable, tmp_path: Path) -> None:
    abinitio(tmp_path / "run")
    assert [row["iteration"] for row in log_rows(tmp_path / "run")] == list(range(1, ITERATIONS + 1))


@pytest.mark.parametrize("stop", [2, ITERATIONS])
def test_a_resumed_run_ends_with_the_same_bytes(
    stop: int, abinitio: Callable, engine: FakeEngine, tmp_path: Path
) -> None:
    abinitio(tmp_path / "whole", "--seed", 7)
    engine.before_iteration = lambda iteration: (
        os.kill(os.getpid(), signal.SIGINT) if iteration == stop else None
    )
    interrupted = abinitio(tmp_path / "parts", "--seed", 7)
    assert interrupted.status == 130
    assert len(log_rows(tmp_path / "parts")) == stop
    engine.before_iteration = lambda iteration: None
    assert abinitio(tmp_path / "parts", "--seed", 7, "--resume").status == 0
    for name in ("volume.mrc", "mask.mrc", "particles.star", "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_resume_needs_only_the_folder(
    abinitio: Callable, cryograd_command: Callable, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 3 else None
    abinitio(tmp_path / "run", "--seed", 7, "--symmetry", "C3")
    engine.before_iteration = lambda i: None
    assert cryograd_command("abinitio", "--resume", "-o", tmp_path / "run").status == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["seed"], metrics["symmetry"]) == (7, "C3")


def test_ctrl_c_leaves_the_map_so_far(
    abinitio: Callable, engine: FakeEngine, simulated: Path, tmp_path: Path
) -> None:
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 3 else None
    outcome = abinitio(tmp_path / "run", "--checkpoint-seconds", 1000)
    assert outcome.status == 130
    assert outcome.out == ""
    assert outcome.error_lines[-1] == "interrupted"
    assert f"continue with: cryograd abinitio -o {tmp_path / 'run'} --resume" in outcome.error_lines
    saved = saved_state(tmp_path)
    assert saved["iteration"] == 3
    kept = State.from_state_dict(saved)
    shown = taken_out(kept, read_particles(simulated / "particles.star"), "C1", kept.volume)
    np.testing.assert_array_equal(read_map(tmp_path / "run/volume.mrc")[0], shown.values)


def test_a_second_ctrl_c_stops_at_once(abinitio: Callable, engine: FakeEngine, tmp_path: Path) -> None:
    def twice(iteration: int) -> None:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    engine.before_iteration = twice
    assert abinitio(tmp_path / "run", "--checkpoint-seconds", 0).status == 130
    assert saved_state(tmp_path)["iteration"] == 2


def test_a_batch_systems_signal_saves_as_well(abinitio: Callable, engine: FakeEngine, tmp_path: Path) -> None:
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGTERM) if i == 4 else None
    assert abinitio(tmp_path / "run").status == 143
    assert saved_state(tmp_path)["iteration"] == 4


def test_an_unexpected_error_leaves_the_map_so_far(
    abinitio: Callable, engine: FakeEngine, tmp_path: Path
) -> None:
    def fail(iteration: int) -> None:
        if iteration == 3:
            raise ZeroDivisionError

    engine.before_iteration = fail
    with pytest.raises(ZeroDivisionError):
        abinitio(tmp_path / "run", "--checkpoint-seconds", 0)
    assert saved_state(tmp_path)["iteration"] == 2
    assert (tmp_path / "run/volume.mrc").is_file()


def test_an_unfinished_run_can_be_reported(
    abinitio: Callable, cryograd_command: Callable, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 2 else None
    abinitio(tmp_path / "run")
    outcome = cryograd_command("report", tmp_path / "run", "--json")
    assert json.loads(outcome.out) == {"report": str(tmp_path / "run/report.html")}
    assert "not finished" in (tmp_path / "run/report.html").read_text()


def test_bad_input_that_only_the_engine_sees_leaves_nothing(
    engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path
) -> None:
    def refuse(iteration: int) -> None:
        raise CryogradError("the mask has another box", "mask.mrc", "give one that fits")

    engine.before_iteration = refuse
    message = refused("abinitio", simulated / "particles.star", "-o", tmp_path / "a" / "b")
    assert message == "the mask has another box, mask.mrc, give one that fits"
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_whatever_ends_a_run_before_its_first_iteration_leaves_nothing(
    abinitio: Callable, engine: FakeEngine, tmp_path: Path, error: type[BaseException]
) -> None:
    def fail(iteration: int) -> None:
        raise error

    engine.before_iteration = fail
    with contextlib.suppress(ZeroDivisionError):
        assert abinitio(tmp_path / "a" / "run").status != 0
    assert not (tmp_path / "a").exists()


def test_a_run_is_not_resumed_with_other_particles(
    cryograd_command: Callable, engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path
) -> None:
    text = (simulated / "particles.star").read_text()
    for stack in simulated.glob("*.mrcs"):
        (tmp_path / stack.name).symlink_to(stack)
    star = tmp_path / "particles.star"
    star.write_text(text)
    assert cryograd_command("abinitio", star, "-o", tmp_path / "run").status == 0
    (tmp_path / "run/report.html").unlink()  # as if it had been stopped while it wrote its files
    before = tree(tmp_path)
    for other in (text.rstrip().rsplit("\n", 1)[0] + "\n", text.replace("000001@", "000002@")):
        assert other != text
        star.write_text(other)
        message = refused("abinitio", "--resume", "-o", tmp_path / "run")
        assert "the images that the particle file names" in message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kept", ["run.toml", "log.jsonl", "volume.mrc", "checkpoint/state.pt"])
def test_a_folder_with_a_run_is_refused(
    kept: str, engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / kept).parent.mkdir(exist_ok=True)
    (tmp_path / kept).write_text("precious")
    before = tree(tmp_path)
    message = refused("abinitio", simulated / "particles.star", "-o", tmp_path)
    assert message.startswith("the output folder already holds a run")
    # A run that was killed before its first checkpoint cannot be continued.
    assert ("--resume" in message) == kept.startswith("checkpoint")
    assert tree(tmp_path) == before
    assert (tmp_path / kept).read_text() == "precious"


def test_a_folder_with_other_files_is_accepted(abinitio: Callable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert abinitio(tmp_path).status == 0
    assert tree(tmp_path) == FILES | {"notes.txt"}


def test_missing_particles_are_refused(engine: FakeEngine, refused: Callable, tmp_path: Path) -> None:
    message = refused("abinitio", tmp_path / "absent.star", "-o", tmp_path / "run")
    assert str(tmp_path / "absent.star") in message
    assert tree(tmp_path) == set()


def test_an_output_below_a_file_is_refused(
    engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    message = refused("abinitio", simulated / "particles.star", "-o", tmp_path / "file" / "run")
    assert message.startswith("the output folder lies in a file")
    assert tree(tmp_path) == {"file"}


def test_an_output_that_is_a_file_is_refused(
    engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("mine")
    assert "lies in a file" in refused("abinitio", simulated / "particles.star", "-o", tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_an_output_without_permission_is_refused(
    engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The administrator, who may run the tests, has permission everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = refused("abinitio", simulated / "particles.star", "-o", tmp_path / "run")
    assert message.startswith("the output folder cannot be written")
    assert tree(tmp_path) == set()


def test_an_output_that_the_system_refuses_is_an_error(
    engine: FakeEngine, refused: Callable, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.mkdir

    def mkdir(self: Path, *arguments: object, **settings: object) -> None:
        if self.name == "b":
            raise OSError(28, "No space left on device")
        real(self, *arguments, **settings)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    message = refused("abinitio", simulated / "particles.star", "-o", tmp_path / "a" / "b")
    assert message.startswith("the output folder cannot be made (No space left on device)")
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("command", ["abinitio", "reconstruct"])
@pytest.mark.parametrize("given", [("particles.star",), ()])
def test_resume_without_a_run_is_refused(
    refused: Callable, tmp_path: Path, command: str, given: tuple[str, ...]
) -> None:
    message = refused(command, *given, "-o", tmp_path / "run", "--resume")
    assert message.startswith(f"there is no run to resume, {tmp_path / 'run'}")
    assert tree(tmp_path) == set()


def test_resume_without_a_checkpoint_is_refused(
    abinitio: Callable, refused: Callable, tmp_path: Path
) -> None:
    abinitio(tmp_path / "run")
    (tmp_path / "run/checkpoint/state.pt").unlink()
    message = refused("abinitio", "-o", tmp_path / "run", "--resume")
    assert message.startswith("there is no checkpoint to resume")
    assert "another folder" in message


def test_resume_with_other_settings_is_refused(
    abinitio: Callable, refused: Callable, simulated: Path, tmp_path: Path
) -> None:
    abinitio(tmp_path / "run", "--seed", 1)
    message = refused(
        "abinitio", simulated / "particles.star", "-o", tmp_path / "run", "--resume", "--seed", 2
    )
    assert message.startswith("seed was 1 and is now 2")


def test_resume_may_save_at_another_interval(abinitio: Callable, tmp_path: Path) -> None:
    abinitio(tmp_path / "run")
    assert abinitio(tmp_path / "run", "--resume", "--checkpoint-seconds", 5).status == 0


def test_a_log_that_reaches_beyond_the_checkpoint_is_cut_on_resume(
    abinitio: Callable, engine: FakeEngine, tmp_path: Path
) -> None:
    def fail(iteration: int) -> None:
        if iteration == 4:
            raise ZeroDivisionError

    engine.before_iteration = fail
    with pytest.raises(ZeroDivisionError):
        abinitio(tmp_path / "run", "--checkpoint-seconds", 1000)
    assert saved_state(tmp_path)["iteration"] == 1
    assert len(log_rows(tmp_path / "run")) == 3
    engine.before_iteration = lambda iteration: None
    assert abinitio(tmp_path / "run", "--resume").status == 0
    assert [row["iteration"] for row in log_rows(tmp_path / "run")] == list(range(1, ITERATIONS + 1))


def test_the_time_of_a_resumed_run_includes_its_earlier_parts(
    abinitio: Callable, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 2 else None
    abinitio(tmp_path / "run")
    path = tmp_path / "run/checkpoint/state.pt"
    checkpoint.save(path, replace(checkpoint.load(path), wall_seconds=5000.0))
    engine.before_iteration = lambda i: None
    abinitio(tmp_path / "run", "--resume")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["wall_seconds"] > 5000.0
