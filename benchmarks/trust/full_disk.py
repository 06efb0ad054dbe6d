"""Take the room from commands at every write, and compare what they leave in the end.

    python benchmarks/trust/full_disk.py WORK [--minutes 10] [--cases NAME ...] [--json FILE]

WORK is an empty folder. In one kind of trial the disk is full from the write of a number on, for all numbers
up to the command's last write. In the other the system lets no file grow beyond a size, so that each of the
program's writers fails in the midst of a file. The command must end with one line on standard error and exit
status 2. With room again it must go on, or begin anew, to the bytes of a run that nothing disturbed.
"""

import argparse
import errno
import itertools
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryograd.output import checkpoint
from trials import CASES, PLACE, Case, Counts, End, compared, ended, performed, prepared, whole_run


def full_from(number: int) -> Callable[[], None]:
    """No room from the write of a number on."""
    left = iter(range(number))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments)

        return write

    def hinder() -> None:
        os.fsync = counted(os.fsync)
        # As where the file itself refuses: the class keeps the error and raises it.
        opened = checkpoint._Digested.__init__

        def wrapped(self: Any, file: Any, start: bytes) -> None:
            opened(self, file, start)
            self.file = _Full(file, counted(file.write))

        checkpoint._Digested.__init__ = wrapped

    return hinder


class _Full:
    """A file whose writes may fail."""

    def __init__(self, file: Any, write: Callable[[bytes], int]) -> None:
        self.file, self.write = file, write


def no_larger_than(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def hindrances() -> Iterator[tuple[str, Callable[[], None]]]:
    """Ways to take the room, without end for numbers of writes."""
    for size in (0, 100, 1000, 5000, 20000, 80000, 131072, 200000, 400000, 1000000):
        yield f"files of {size} bytes", no_larger_than(size)
    for number in itertools.count():
        # All of the first writes, and ever fewer of the later ones, which are like them.
        yield f"write {number}", full_from(number if number < 20 else int(20 * 1.2 ** (number - 19)))


def one_line(end: End) -> bool:
    """Whether a command ended as it should where there is no room."""
    return end.status == 2 and end.error.startswith("error: ") and end.error.count("\n") == 1


def tried(case: Case, hinder: Callable[[], None], reference: dict[str, str]) -> Counts:
    """One trial of a case."""
    shutil.rmtree(PLACE)
    PLACE.mkdir()
    counts, end = Counts(trials=1), performed(case.command(PLACE), hinder)
    if end.status == 0:
        counts.never_hindered = 1
    else:
        if not one_line(end):
            counts.said.append(f"status {end.status}: {end.error[-300:]}")
        ended(case, PLACE, counts, end)
    compared(PLACE, reference, counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    target = options.json and options.json.absolute()
    cases = [case for case in CASES if case.name in options.cases]
    prepared(options.work, cases)
    totals = {case.name: Counts() for case in cases}
    reference = {case.name: whole_run(case)[1] for case in cases}
    end = time.monotonic() + 60.0 * options.minutes
    waiting = [(case, hindrances()) for case in cases]
    while waiting and time.monotonic() < end:
        case, ways = waiting.pop(0)
        name, hinder = next(ways)
        counts = tried(case, hinder, reference[case.name])
        totals[case.name].add(counts)
        print(case.name, name, {k: v for k, v in asdict(counts).items() if v}, flush=True)
        # A write beyond the last one hinders nothing.
        if not (counts.never_hindered and name.startswith("write")):
            waiting.append((case, ways))
        if target:
            found = {"command": "python benchmarks/trust/full_disk.py WORK", "ended": not waiting}
            found["trials"] = sum(c.trials - c.never_hindered for c in totals.values())
            found["cases"] = {name: asdict(total) for name, total in totals.items()}
            target.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
