"""Give the program hostile files, and see to it that it takes them or refuses them in one line.

    python benchmarks/trust/fuzz.py WORK [--kinds star cs mrc toml checkpoint folder] [--minutes 5] [--seed 0]
                                         [--seeds FOLDER ...] [--json FILE]

WORK is a folder, in which seeds are made once: small files of all kinds by the program itself. Every input is
one of them, spoiled at random, and is given to one of the functions behind the commands. It is a function of
the seed, the kind and its number. To be right is to succeed, or to raise one `CryogradError` whose line is
short. Anything else is a fault, and so are a warning, a hang, too much memory, files that are half-written or
left beside a refusal, and written particles that do not read as they were. Faults are kept in WORK/faults.
"""

import argparse
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import stat
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from cryograd.errors import CryogradError
from cryograd.printable import printable
from hostile import WRITERS
from seeds import Seeds, made_seeds
from uses import USES

# Seconds of processor time, and of any time, that an input may take; bytes that it may take more.
BUSY, WAITING, MEMORY = 10.0, 60.0, 3 << 30
# Characters of the longest line that says what is wrong.
LONGEST_LINE = 1600


class Hang(BaseException):
    """An input takes too long; no handler of errors takes it for one."""


@dataclass
class Counts:
    """What became of the inputs of a kind.

    Parameters
    ----------
    distinct
        Faults by where they came from.
    uses
        Inputs by what they were given to.
    """

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    faults: int = 0
    distinct: Counter[str] = field(default_factory=Counter)
    uses: Counter[str] = field(default_factory=Counter)


def result_of(use: Callable[[], None]) -> tuple[str, str, str]:
    """Call a use of an input: what became of it, where from, and the text that says so."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", kind)
            use()
    except CryogradError as error:
        line = printable(" ".join(str(error).split()))
        if len(line) > LONGEST_LINE:
            return "fault", f"a line of {len(line)} characters: {place_of(error)}", line[:2000]
        return ("refused", "", line) if not said else warned(said)
    except OSError as error:
        # The command line says it in one line, with the name of the file.
        return ("refused", "", str(error)) if error.filename else failed(error)
    except BaseException as error:
        return failed(error)
    return ("accepted", "", "") if not said else warned(said)


def warned(said: Sequence[warnings.WarningMessage]) -> tuple[str, str, str]:
    """The fault of an input at which something was printed."""
    one = said[0]
    where = Path(one.filename)
    return "fault", f"{one.category.__name__} {where.parent.name}/{where.name}:{one.lineno}", str(one.message)


def failed(error: BaseException) -> tuple[str, str, str]:
    """The fault of an input at which something else was raised."""
    text = "".join(traceback.format_exception(error))
    return "fault", f"{type(error).__name__}: {place_of(error)}", text[-4000:]


def place_of(error: BaseException) -> str:
    """The deepest line of the program in an error's trace."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "cryograd" in Path(f.filename).parts]
    if not frames:
        return str(error)[:80]
    last = frames[-1]
    return f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.lineno} {last.name}"


def input_of(kind: str, seeds: Seeds, seed: int, number: int, place: Path) -> tuple[str, Callable[[], None]]:
    """Write an input into an empty folder: what it is given to, and the call that does it."""
    remove(place)
    place.mkdir(parents=True)
    rng = random.Random(f"{seed} {kind} {number}")
    name = rng.choice(list(USES[kind]))
    WRITERS[kind](rng, seeds, place)
    return name, lambda: USES[kind][name](place, rng)


def remove(place: Path) -> None:
    """Remove a folder whatever is in it."""
    shutil.rmtree(place, ignore_errors=True)


def worked_off(
    kind: str, seeds: Seeds, seed: int, numbers: Iterator[int], until: float, place: Path, out: IO[str]
) -> None:
    """Give inputs to the program, and tell of each before and after, one line of JSON each."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(1000)
    for number in numbers:
        if time.monotonic() > until:
            return
        _tell(out, number=number)
        name, use = input_of(kind, seeds, seed, number, place)
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        signal.setitimer(signal.ITIMER_PROF, BUSY)
        try:
            found = result_of(use)
        except Hang as hang:
            found = failed(hang)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        _tell(out, number=number, use=name, found=found)


def _hang(number: int, frame: FrameType | None) -> NoReturn:
    raise Hang


def _tell(out: IO[str], **said: Any) -> None:
    out.write(json.dumps(said) + "\n")
    out.flush()


def in_a_fork(
    kind: str, seeds: Seeds, seed: int, first: int, until: float, place: Path
) -> Iterator[dict[str, Any]]:
    """What a process of its own tells of inputs from a number on; it may die of one, or be stuck in it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        status = 1
        with suppress(BaseException), os.fdopen(write, "w") as out:
            worked_off(kind, seeds, seed, itertools.count(first), until, place, out)
            status = 0
        os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as told:
        rest = b""
        while True:
            if not select.select([told], [], [], 2.0 * WAITING)[0]:
                os.kill(child, signal.SIGKILL)
            chunk = told.read(1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, lines)
    yield {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def campaign(kind: str, seeds: Seeds, seed: int, minutes: float, work: Path) -> Counts:
    """Inputs of a kind for so many minutes."""
    counts, until, number = Counts(), time.monotonic() + 60.0 * minutes, 0
    place = work / "place"
    while time.monotonic() < until:
        begun = None
        for said in in_a_fork(kind, seeds, seed, number, until, place):
            if "status" in said:
                if begun is None:
                    break
                where = f"the process ended with status {said['status']}"
                said = {"number": begun, "use": "?", "found": ("fault", where, where)}
            elif "found" not in said:
                begun = said["number"]
                continue
            begun, number = None, said["number"] + 1
            counted(counts, kind, said, work)
    remove(place)
    return counts


def counted(counts: Counts, kind: str, said: dict[str, Any], work: Path) -> None:
    """Count an input, and keep the first that shows a fault."""
    result, where, text = said["found"]
    counts.inputs += 1
    counts.uses[said["use"]] += 1
    if result != "fault":
        setattr(counts, result, getattr(counts, result) + 1)
        return
    counts.faults += 1
    counts.distinct[where] += 1
    if counts.distinct[where] == 1:
        kept = work / "faults" / f"{kind}-{said['number']}"
        remove(kept)
        print(f"{kept.name} ({said['use']}): {where}: {text.strip().splitlines()[-1][:200]}", flush=True)
        # The process goes on in the meantime: the input is made again.
        kept.mkdir(parents=True)
        (kept / "fault.txt").write_text(f"{said['use']}\n{where}\n\n{text}\n")


def kept_inputs(kind: str, seeds: Seeds, seed: int, work: Path) -> None:
    """Put the inputs of the faults beside what is said of them."""
    for folder in (work / "faults").glob(f"{kind}-*"):
        place = folder / "place"
        input_of(kind, seeds, seed, int(folder.name.rpartition("-")[2]), place)
        for path in place.rglob("*"):
            # Whoever looks at it would wait for a pipe.
            if stat.S_ISFIFO(path.lstat().st_mode):
                path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=list(USES), default=list(USES))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=Path, nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    target, work = options.json and options.json.absolute(), options.work.absolute()
    folders = [folder.absolute() for folder in options.seeds]
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    seeds = made_seeds(work / "seeds", folders)
    found: dict[str, Any] = {"command": "python benchmarks/trust/fuzz.py WORK", "seed": options.seed}
    found["kinds"] = {}
    for name in options.kinds:
        counts = campaign(name, seeds, options.seed, options.minutes, work)
        kept_inputs(name, seeds, options.seed, work)
        found["kinds"][name] = {"minutes": options.minutes} | vars(counts)
        print(name, json.dumps(found["kinds"][name]), flush=True)
        if target:
            target.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
