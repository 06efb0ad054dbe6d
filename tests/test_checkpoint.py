import errno
import os
from pathlib import Path

import pytest
import torch

from cryograd.errors import CryogradError
from cryograd.output import checkpoint, header
from cryograd.output.checkpoint import Checkpoint, Schedule


def state() -> dict[str, object]:
    return {"iteration": 7, "volume": torch.arange(8.0).reshape(2, 2, 2), "history": [{"a": 1.5, "b": "x"}]}


def made(seconds: float) -> Checkpoint:
    return Checkpoint(state(), seconds, "# record", {})


def test_a_checkpoint_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint" / "state.pt"
    checkpoint.save(path, Checkpoint(state(), 12.5, "# record", {"the mask": "digest"}))
    found = checkpoint.load(path)
    assert found.wall_seconds == 12.5
    assert found.record == "# record"
    assert found.given == {"the mask": "digest"}
    assert found.moment["iteration"] == 7
    assert found.moment["history"] == [{"a": 1.5, "b": "x"}]
    assert torch.equal(found.moment["volume"], torch.arange(8.0).reshape(2, 2, 2))


def test_a_failure_while_saving_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, made(1.0))

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*state\.pt"):
        checkpoint.save(path, made(2.0))
    monkeypatch.undo()
    assert checkpoint.load(path).wall_seconds == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CryogradError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "state.pt")


def test_a_truncated_checkpoint_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, made(1.0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CryogradError, match="broken"):
        checkpoint.load(path)


@pytest.mark.parametrize("place", [0, 20, 300, 0.4, 0.7, -1])
def test_a_flipped_bit_is_an_error(tmp_path: Path, place: float) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, made(1.0))
    contents = bytearray(path.read_bytes())
    contents[place if isinstance(place, int) else int(place * len(contents))] ^= 4
    path.write_bytes(contents)
    with pytest.raises(CryogradError, match="broken"):
        checkpoint.load(path)


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04" + bytes(99), b"[" * 99999, b'{"format": 11}\n'])
def test_what_is_no_checkpoint_is_an_error(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(contents)
    with pytest.raises(CryogradError, match="does not say which run it is of"):
        checkpoint.load(path)


def test_the_record_is_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, made(1.0))
    path.write_bytes(path.read_bytes()[:-50])
    assert header.read_header(path).record == "# record"


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    path = tmp_path / "state.pt"
    checkpoint.save(path, Checkpoint({"bomb": Bomb()}, 0.0, "# record", {}))
    with pytest.raises(CryogradError, match="broken"):
        checkpoint.load(path)
    assert not (tmp_path / "exploded").exists()


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        checkpoint.save(path, made(1.0))
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
