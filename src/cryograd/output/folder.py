"""The folder of a run: which files it holds, and the checks before anything is written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryograd.atomic import write_text
from cryograd.errors import CryogradError
from cryograd.paths import check_writable


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
            if not self.checkpoint.is_file():
                raise CryogradError(
                    "there is no checkpoint to resume",
                    self.path,
                    "start the run without --resume, in another folder or when this one is empty",
                )
        elif any(file.exists() for file in (self.record, self.log, self.volume, self.checkpoint)):
            other = "continue the run with --resume"
            if not self.checkpoint.is_file():
                other = "empty this one: the run has no checkpoint to continue from"
            raise CryogradError(
                "the output folder already holds a run", self.path, f"choose another folder, or {other}"
            )

    def create(self) -> None:
        """Make the folder and those above it."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except OSError as error:
                self.discard()
                raise CryogradError(
                    f"the output folder cannot be made ({error.strerror})", folder, "choose another folder"
                ) from None
            self._made.append(folder)

    def discard(self) -> None:
        """Take back what a run made that could not start: its record and the folders made for it."""
        self.record.unlink(missing_ok=True)
        while self._made:
            self._made.pop().rmdir()

    def write_record(self, text: str) -> None:
        """Write run.toml, which marks the folder as taken.

        Raises
        ------
        CryogradError
            Nothing can be written, or another run was faster.
        """
        try:
            with self.record.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise CryogradError(
                "another run has just begun in the output folder", self.path, "choose another folder"
            ) from None
        except OSError as error:
            self.discard()
            raise CryogradError(
                f"the output folder cannot be written ({error.strerror})", self.path, "choose another folder"
            ) from None

    def append_log(self, row: Mapping[str, Any]) -> None:
        """Add a row to the log; it is on disk when this returns."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rewrite_log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the log, which may reach beyond the checkpoint that a run resumes from."""
        write_text(self.log, "".join(json.dumps(row) + "\n" for row in rows))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_text(self.metrics, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
