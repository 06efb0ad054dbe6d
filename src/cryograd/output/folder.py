"""The folder of a run: which files it holds, and the checks before anything is written."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryograd.atomic import remove_stale, write_text
from cryograd.errors import CryogradError
from cryograd.occupied import left_behind
from cryograd.paths import check_writable
from cryograd.report.records import Ended, parsed


class RunFolder:
    """Paths of a run's files, and their writing.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "run.toml"
        self.log = path / "log.jsonl"
        self.volume = path / "volume.mrc"
        self.mask = path / "mask.mrc"
        self.halves = (path / "half1.mrc", path / "half2.mrc")
        self.particles = path / "particles.star"
        self.metrics = path / "metrics.json"
        self.report = path / "report.html"
        self.checkpoint = path / "checkpoint" / "state.pt"
        self._made: list[Path] = []

    def of_class(self, number: int) -> Path:
        """Folder of one of several classes, from 1."""
        return self.path / f"class{number}"

    def check(self, resume: bool) -> None:
        """Refuse a folder that cannot take this run, without changing anything.

        Raises
        ------
        CryogradError
            It cannot be written, holds a run already, or holds none to resume.
        """
        check_writable(self.path)
        if resume:
            self._refuse_without_checkpoint()
        elif self._holds_run:
            other = "continue the run with --resume"
            if not self.checkpoint.is_file():
                other = "empty this one: the run has no checkpoint to continue from"
            raise CryogradError(
                "the output folder already holds a run", self.path, f"choose another folder, or {other}"
            )

    @property
    def _holds_run(self) -> bool:
        """Whether there is a run; one that was killed before its first checkpoint is none."""
        if self.checkpoint.exists() or self.volume.exists() or self.metrics.exists():
            return True
        return (self.record.exists() or self.log.exists()) and not left_behind(self.path)

    def _refuse_without_checkpoint(self) -> None:
        """Refuse to go on from nothing."""
        if self.checkpoint.is_file():
            return
        if not self._holds_run:
            raise CryogradError("there is no run to resume", self.path, "start the run without --resume")
        raise CryogradError(
            "there is no checkpoint to resume",
            self.path,
            "start the run without --resume, in another folder or when this one is empty",
        )

    @property
    def finished(self) -> bool:
        """Whether a run has ended here and written all its files, of which the report is the last."""
        return self.report.is_file() and self.read_metrics() is not None

    def read_metrics(self) -> dict[str, Any] | None:
        """What metrics.json says of a run that has ended; None where it is absent or broken."""
        try:
            found = parsed(self.metrics, json.loads, Ended)
            # As it was written: Python's reader also takes what is no number in JSON.
            json.dumps(found, allow_nan=False)
        except (CryogradError, ValueError):
            return None
        return found

    def create(self) -> None:
        """Make the folder and those above it."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except OSError as error:
                self.withdraw()
                raise CryogradError(
                    f"the output folder cannot be made ({error.strerror})", folder, "choose another folder"
                ) from None
            self._made.append(folder)

    def clear(self) -> None:
        """Take back what a run without a checkpoint has left: it can go on from nothing of this."""
        for file in (self.record, self.log, self.checkpoint):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.checkpoint.parent.rmdir()

    def sweep(self) -> None:
        """Take away what a process that was killed left half-written."""
        for folder in (self.path, self.checkpoint.parent, *self.path.glob("class*/")):
            if folder.is_dir():
                remove_stale(folder)

    def withdraw(self) -> None:
        """Take back the folders that were made, as far as they are empty."""
        with suppress(OSError):
            while self._made:
                self._made.pop().rmdir()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context in which files of the run are written.

        Raises
        ------
        CryogradError
            One cannot be written, as on a full disk.
        """
        try:
            yield
        except OSError as error:
            again = "continue the run with --resume" if self.checkpoint.is_file() else "start the run again"
            raise CryogradError(
                f"a file of the run cannot be written ({error.strerror or error})",
                error.filename or self.path,
                f"make room for it and {again}",
            ) from error

    def write_record(self, text: str) -> None:
        """Write run.toml, which marks the folder as taken."""
        write_text(self.record, text)

    def append_log(self, row: Mapping[str, Any]) -> None:
        """Add a row to the log."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewrite_log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the log, which may reach beyond the checkpoint that a run resumes from."""
        write_text(self.log, "".join(json.dumps(row) + "\n" for row in rows))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_text(self.metrics, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
