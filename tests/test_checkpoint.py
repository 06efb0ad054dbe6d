from pathlib import Path

import pytest
import torch

from cryograd.errors import CryogradError
from cryograd.output import checkpoint
from cryograd.output.checkpoint import Checkpoint, Schedule


def state() -> dict[str, object]:
    return {"iteration": 7, "volume": torch.arange(8.0).reshape(2, 2, 2), "history": [{"a": 1.5, "b": "x"}]}


def test_a_checkpoint_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint" / "state.pt"
    checkpoint.save(path, Checkpoint(state(), 12.5, "digest"))
    found = checkpoint.load(path)
    assert found.wall_seconds == 12.5
    assert found.images == "digest"
    assert found.moment["iteration"] == 7
    assert found.moment["history"] == [{"a": 1.5, "b": "x"}]
    assert torch.equal(found.moment["volume"], torch.arange(8.0).reshape(2, 2, 2))


def test_a_failure_while_saving_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, Checkpoint(state(), 1.0, "digest"))

    def full_disk(contents: object, file: object) -> None:
        file.write(b"half")  # pyright: ignore[reportAttributeAccessIssue]
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, Checkpoint(state(), 2.0, "digest"))
    monkeypatch.undo()
    assert checkpoint.load(path).wall_seconds == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CryogradError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "state.pt")


def test_a_truncated_checkpoint_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, Checkpoint(state(), 1.0, "digest"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CryogradError, match="broken"):
        checkpoint.load(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    path = tmp_path / "state.pt"
    torch.save({"format": checkpoint.FORMAT, "moment": Bomb(), "wall_seconds": 0.0}, path)
    with pytest.raises(CryogradError, match="broken"):
        checkpoint.load(path)
    assert not (tmp_path / "exploded").exists()


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        checkpoint.save(path, Checkpoint(state(), 1.0, "digest"))
    with pytest.raises(CryogradError, match="format 99"):
        checkpoint.load(path)


def test_checkpoints_are_due_at_once_and_then_at_intervals() -> None:
    times = iter([100.0, 110.0, 159.9, 160.0, 161.0])
    schedule = Schedule(60.0, clock=lambda: next(times))
    assert [schedule.due() for _ in range(5)] == [True, False, False, True, False]


def test_checkpoints_that_take_long_are_due_less_often() -> None:
    times = iter([0.0, 61.0, 199.0, 200.0])
    schedule = Schedule(60.0, clock=lambda: next(times))
    assert schedule.due()
    schedule.took(10.0)
    assert [schedule.due() for _ in range(3)] == [False, False, True]
