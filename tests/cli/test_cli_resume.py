"""What a run goes on from, what it refuses to go on from, and what is left of one that was killed."""

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryograd import library
from cryograd.cli.main import main
from cryograd.config import Refine
from cryograd.data.mrc import read_map, write_map
from cryograd.errors import CryogradError, FruitlessError
from cryograd.occupied import LOCK, occupied
from cryograd.output import checkpoint, given
from cryograd.results import Result

from .conftest import BOX, ITERATIONS, PIXEL_SIZE, FakeEngine, Outcome, tree

PRODUCTS = ("volume.mrc", "mask.mrc", "particles.star")


@pytest.fixture
def copied(simulated: Path, tmp_path: Path) -> Path:
    """The simulated particles, to change."""
    return Path(shutil.copytree(simulated, tmp_path / "particles"))


@pytest.fixture
def stopped(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, copied: Path, tmp_path: Path
) -> Path:
    """A run that was stopped after its second iteration."""
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 2 else None
    assert cryograd_command("abinitio", copied / "particles.star", "-o", tmp_path / "run").status == 130
    engine.before_iteration = lambda i: None
    return tmp_path / "run"


@pytest.fixture
def resume(cryograd_command: Callable[..., Outcome], stopped: Path) -> Callable[[], Outcome]:
    """Go on with it."""
    return lambda: cryograd_command("abinitio", "-o", stopped, "--resume")


def killed_at(iteration: int, folder: Path, command: list[str], engine: FakeEngine) -> None:
    """Run a command in another process, which is killed in an iteration."""
    child = os.fork()
    if child == 0:
        engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == iteration else None
        main([*command, "-o", str(folder)])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in tree(folder) if (folder / name).is_file()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda text: text.replace("\nseed = 0\n", "\nseed = 5\n"),
            "seed is 5 there, and the run began",
        ),
        (lambda text: text.replace("\nseed = 0\n", "\n"), "seed is None there"),
        (lambda text: text[: len(text) // 2], ""),
        (lambda text: text.replace("abinitio", "refine", 1), "the record names refine"),
        (lambda text: "", "names no command"),
        (lambda text: "seed = [", "not valid TOML"),
    ],
    ids=["edited", "removed", "cut", "command", "empty", "broken"],
)
def test_a_record_that_was_changed_is_refused(
    refused: Callable, stopped: Path, change: Callable[[str], str], said: str
) -> None:
    record = stopped / "run.toml"
    record.write_text(change(record.read_text()))
    before = contents(stopped)
    message = refused("abinitio", "-o", stopped, "--resume")
    assert said in message
    assert str(record) in message
    assert "remove the file" in message
    assert contents(stopped) == before


def test_a_record_that_is_gone_is_written_again(resume: Callable[[], Outcome], stopped: Path) -> None:
    before = (stopped / "run.toml").read_bytes()
    (stopped / "run.toml").unlink()
    assert resume().status == 0
    assert (stopped / "run.toml").read_bytes() == before


def test_a_run_of_another_command_is_named(refused: Callable, stopped: Path) -> None:
    message = refused("refine", "-o", stopped, "--resume")
    assert message.startswith("the run in the folder is one of cryograd abinitio, not of cryograd refine")
    assert f"cryograd abinitio -o {stopped} --resume" in message


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [(" 300.0", " 200.0", "the voltage"), (" 4.0", " 4.1", "the pixel size")],
    ids=["voltage", "pixel"],
)
def test_other_optics_are_refused(
    refused: Callable, stopped: Path, copied: Path, before: str, after: str, what: str
) -> None:
    star = copied / "particles.star"
    text = star.read_text().replace("\t", " ")
    assert before in text
    star.write_text(text.replace(before, after, 1))
    message = refused("abinitio", "-o", stopped, "--resume")
    assert message.startswith(f"what the run began with has changed: {what}, {star}")


def test_other_ctfs_are_refused(refused: Callable, stopped: Path, copied: Path) -> None:
    star = copied / "particles.star"
    lines = star.read_text().splitlines(keepends=True)
    last = next(number for number in reversed(range(len(lines))) if "@" in lines[number])
    defocus = next(value for value in lines[last].split() if "@" not in value and float(value) > 9000.0)
    lines[last] = lines[last].replace(defocus, str(float(defocus) + 500.0))
    star.write_text("".join(lines))
    message = refused("abinitio", "-o", stopped, "--resume")
    assert message.startswith("what the run began with has changed: the defocus,")


def test_other_pixels_are_refused(refused: Callable, stopped: Path, copied: Path) -> None:
    stack = copied / "particles.mrcs"
    values = bytearray(stack.read_bytes())
    values[-2] ^= 1
    stack.write_bytes(values)
    message = refused("abinitio", "-o", stopped, "--resume")
    assert message.startswith("what the run began with has changed: the pixels of the images,")


def test_what_only_other_commands_look_at_may_change(
    resume: Callable[[], Outcome], stopped: Path, copied: Path
) -> None:
    """A random start knows no half-sets."""
    star = copied / "particles.star"
    star.write_text(star.read_text().replace("_rlnRandomSubset", "_cryogradSubset"))
    assert resume().status == 0


def test_half_sets_and_maps_are_told_apart() -> None:
    before = {"the half-sets": "a", "the mask": "b"}
    config = Refine(particles=Path("a.star"), volume=(Path("a.mrc"),))
    with pytest.raises(CryogradError, match=r"changed: the half-sets, the mask, a.star"):
        given.refuse_changed(before, {"the half-sets": "c"}, config)


def test_a_damaged_checkpoint_is_refused(refused: Callable, stopped: Path) -> None:
    path = stopped / "checkpoint/state.pt"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    before = contents(stopped)
    assert refused("abinitio", "-o", stopped, "--resume").startswith("the checkpoint is broken")
    assert contents(stopped) == before


@pytest.mark.parametrize("arguments", [(), ("--resume",)])
def test_a_folder_in_which_a_run_is_at_work_is_refused(
    refused: Callable, stopped: Path, copied: Path, arguments: tuple[str, ...]
) -> None:
    folder = stopped if arguments else stopped.parent / "other"
    folder.mkdir(exist_ok=True)
    with occupied(folder):
        before = contents(folder)
        message = refused("abinitio", copied / "particles.star", "-o", folder, *arguments)
        assert message.startswith(f"another run is at work in the folder (process {os.getpid()} on ")
        assert contents(folder) == before
    assert not (folder / LOCK).exists()


def test_a_file_system_without_locks_is_said_to_have_none(
    resume: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    outcome = resume()
    assert outcome.status == 0, outcome.err
    assert len(outcome.error_lines) == 1
    assert "knows no locks: see to it that no other run works there" in outcome.err


def test_a_run_that_is_killed_before_its_first_checkpoint_is_begun_anew(
    cryograd_command: Callable[..., Outcome],
    engine: FakeEngine,
    refused: Callable,
    copied: Path,
    tmp_path: Path,
) -> None:
    command = ["abinitio", str(copied / "particles.star")]
    killed_at(1, tmp_path / "run", command, engine)
    assert tree(tmp_path / "run") == {LOCK, "run.toml"}
    (tmp_path / "run/log.jsonl").write_text('{"cut')
    assert refused("abinitio", "-o", tmp_path / "run", "--resume").startswith("there is no run to resume")
    assert cryograd_command(*command, "-o", tmp_path / "run").status == 0
    assert cryograd_command(*command, "-o", tmp_path / "whole").status == 0
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")
    for name in PRODUCTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_that_is_killed_later_is_resumed_and_what_is_half_written_goes(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, copied: Path, tmp_path: Path
) -> None:
    command = ["abinitio", str(copied / "particles.star"), "--checkpoint-seconds", "0"]
    killed_at(4, tmp_path / "run", command, engine)
    for name in (".run.toml", ".volume.mrc", "checkpoint/.state.pt"):
        (tmp_path / "run" / f"{name}.99999999.tmp").write_text("half")
    assert checkpoint.load(tmp_path / "run/checkpoint/state.pt").moment["state"]["iteration"] == 3
    assert cryograd_command("abinitio", "-o", tmp_path / "run", "--resume").status == 0
    assert cryograd_command(*command, "-o", tmp_path / "whole").status == 0
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")
    for name in PRODUCTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_run_may_be_killed_in_any_of_its_writes(
    cryograd_command: Callable[..., Outcome],
    engine: FakeEngine,
    simulated: Path,
    tmp_path: Path,
) -> None:
    """Before a file is on disk, and before and after it takes its name."""
    command = ["abinitio", str(simulated / "particles.star"), "--checkpoint-seconds", "1000"]
    assert cryograd_command(*command, "-o", tmp_path / "whole").status == 0
    killed = 0
    while kill_in_write(killed, tmp_path / "run", command):
        killed += 1
        resumable = (tmp_path / "run/checkpoint/state.pt").exists()
        again = ["abinitio", "--resume"] if resumable else command
        outcome = cryograd_command(*again, "-o", tmp_path / "run")
        assert outcome.status == 0, outcome.err
        assert tree(tmp_path / "run") == tree(tmp_path / "whole")
        for name in PRODUCTS:
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        shutil.rmtree(tmp_path / "run")
    # Record, two checkpoints with their maps, and five products, each with two calls that are counted.
    assert killed == 20


def kill_in_write(number: int, folder: Path, command: list[str]) -> bool:
    """Run a command in another process, which is killed in its write of a number if it has so many."""
    child = os.fork()
    if child == 0:
        left, fsync, replace = iter(range(number)), os.fsync, os.replace

        def counted(function: Callable[..., None], *arguments: Any) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            function(*arguments)

        def on_file(descriptor: int) -> None:
            is_file = os.path.isfile(f"/proc/self/fd/{descriptor}")
            counted(fsync, descriptor) if is_file else fsync(descriptor)

        os.fsync, os.replace = on_file, partial(counted, replace)
        main([*command, "-o", str(folder)])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_finished_run_is_left_as_it_is(
    cryograd_command: Callable[..., Outcome], resume: Callable[[], Outcome], stopped: Path
) -> None:
    ended = resume()
    times = {name: (stopped / name).stat().st_mtime_ns for name in tree(stopped)}
    again = resume()
    assert again.status == 0
    assert again.out == ended.out
    assert again.err == f"the run in {stopped} is finished already, nothing was changed\n"
    assert {name: (stopped / name).stat().st_mtime_ns for name in tree(stopped)} == times


@pytest.mark.parametrize("missing", ["metrics.json", "report.html"])
def test_a_run_that_was_stopped_while_it_wrote_its_products_writes_them(
    resume: Callable[[], Outcome], stopped: Path, missing: str
) -> None:
    resume()
    files = tree(stopped)
    (stopped / missing).unlink()
    assert resume().err == ""
    assert tree(stopped) == files


def test_the_library_gives_the_result_of_a_finished_run_again(
    resume: Callable[[], Outcome], stopped: Path, copied: Path
) -> None:
    resume()
    before = contents(stopped)
    result = library.abinitio(copied / "particles.star", output=stopped, resume=True)
    assert isinstance(result, Result)
    assert len(result.history) == ITERATIONS
    np.testing.assert_array_equal(result.volume.values, read_map(stopped / "volume.mrc")[0])
    assert contents(stopped) == before


@pytest.mark.parametrize("writes", range(10))
def test_a_full_disk_is_one_line_and_the_run_goes_on_to_the_same_bytes(
    cryograd_command: Callable[..., Outcome],
    engine: FakeEngine,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """At every place at which a file is written: after so many are there is no room."""
    command = ("abinitio", simulated / "particles.star", "--checkpoint-seconds", 1000)
    real, left = os.fsync, iter(range(writes))

    def fsync(descriptor: int) -> None:
        if os.path.isfile(f"/proc/self/fd/{descriptor}") and next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        outcome = cryograd_command(*command, "-o", tmp_path / "run")
    assert outcome.status == 2, outcome
    assert len(outcome.error_lines) == 1
    assert "a file of the run cannot be written (No space left on device)" in outcome.err
    assert not list(tmp_path.rglob("*.tmp"))
    if "--resume" in outcome.err:
        assert cryograd_command("abinitio", "-o", tmp_path / "run", "--resume").status == 0
    else:
        assert tree(tmp_path) == set()
        assert cryograd_command(*command, "-o", tmp_path / "run").status == 0
    assert cryograd_command(*command, "-o", tmp_path / "whole").status == 0
    for name in PRODUCTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_refusal_while_computing_says_that_the_folder_is_kept(
    cryograd_command: Callable[..., Outcome],
    engine: FakeEngine,
    refused: Callable,
    copied: Path,
    tmp_path: Path,
) -> None:
    def lost(iteration: int) -> None:
        if iteration == 3:
            raise FruitlessError("class 2 has lost all its images", "a.star", "give fewer --classes")

    engine.before_iteration = lost
    run = tmp_path / "run"
    first = refused("abinitio", copied / "particles.star", "-o", run)
    assert first.endswith(f"give fewer --classes, in another folder than {run}, which keeps the maps so far")
    assert refused("abinitio", "-o", run, "--resume") == first


def test_a_stack_that_is_gone_at_the_end_loses_nothing(
    cryograd_command: Callable[..., Outcome], engine: FakeEngine, copied: Path, tmp_path: Path
) -> None:
    def gone(iteration: int) -> None:
        (copied / "particles.mrcs").unlink(missing_ok=True)

    engine.before_iteration = gone
    outcome = cryograd_command("abinitio", copied / "particles.star", "-o", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "run/report.html").is_file()


def test_a_mask_that_was_changed_is_refused(
    cryograd_command: Callable[..., Outcome],
    engine: FakeEngine,
    refused: Callable,
    copied: Path,
    tmp_path: Path,
) -> None:
    mask = np.ones((BOX, BOX, BOX), dtype=np.float32)
    write_map(tmp_path / "mask.mrc", mask, PIXEL_SIZE)
    engine.before_iteration = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 2 else None
    command = ("abinitio", copied / "particles.star", "--mask", tmp_path / "mask.mrc", "-o", tmp_path / "run")
    assert cryograd_command(*command).status == 130
    mask[0] = 0.0
    write_map(tmp_path / "mask.mrc", mask, PIXEL_SIZE)
    message = refused("abinitio", "-o", tmp_path / "run", "--resume")
    assert message.startswith("what the run began with has changed: the mask,")
