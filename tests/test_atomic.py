"""Files that appear complete or not at all, whatever happens to their writers."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryograd.atomic import replacing, write_text
from cryograd.data.mrc import StackWriter, write_map
from cryograd.errors import CryogradError
from cryograd.occupied import LOCK, left_behind, occupied


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_the_system_says_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space.*a\.txt") as error, replacing(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.errno == errno.ENOSPC


def test_stale_files_go_and_those_at_work_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for name in (".a.txt.99999999.tmp", ".b.txt.99999999.tmp"):
        (tmp_path / name).write_text("half")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cryograd.atomic import replacing\n"
        f"with replacing(Path({str(path)!r})):\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"ready\n"
    write_text(path, "mine")
    assert set(os.listdir(tmp_path)) == {"a.txt", f".a.txt.{other.pid}.tmp", ".b.txt.99999999.tmp"}
    other.kill()
    other.wait()
    write_text(path, "mine")
    assert set(os.listdir(tmp_path)) == {"a.txt", ".b.txt.99999999.tmp"}


@pytest.mark.parametrize("refused", ["fsync", "posix_fallocate"])
def test_maps_and_stacks_do_not_end_half_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, refused, full)
    with pytest.raises(OSError, match="No space"), StackWriter(tmp_path / "a.mrcs", 1, 4, 1.0) as writer:
        writer.append(np.ones((1, 4, 4), dtype=np.float32))
    if refused == "fsync":
        with pytest.raises(OSError, match="No space"):
            write_map(tmp_path / "a.mrc", np.ones((4, 4, 4)), 1.0)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_held_by_one_and_the_trace_of_others_is_seen(tmp_path: Path) -> None:
    with occupied(tmp_path):
        assert left_behind(tmp_path)
        with pytest.raises(CryogradError, match="another run is at work"), occupied(tmp_path):
            pass
    assert not left_behind(tmp_path)
    # Of a process that was killed.
    (tmp_path / LOCK).write_text("process 1 on nowhere")
    with occupied(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert os.listdir(tmp_path) == []
