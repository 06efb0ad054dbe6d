"""Kill commands at random, at any moment and in the midst of writing, and compare what they leave in the end.

    python benchmarks/trust/kills.py WORK [--minutes 20] [--seed 0] [--json FILE]

WORK is an empty folder. Every trial starts one of the commands, kills it with SIGKILL, possibly goes on with
it and kills it once more, and goes on with it to its end: with ``--resume`` where there is a checkpoint, and
with the same command line where there is none. All files must then have the bytes of a run that nothing
disturbed, but for those that say how long something took, and nothing else may be left.
"""

import argparse
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryograd.output import checkpoint
from trials import CASES, PLACE, Case, Counts, compared, ended, performed, prepared, whole_run


def in_a_write(number: int) -> Callable[[], None]:
    """Kill the process in its write of a number: before or after a rename, or while a file grows."""
    left = iter(range(number))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return write

    def hinder() -> None:
        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        checkpoint._Digested.write = counted(checkpoint._Digested.write)

    return hinder


def tried(case: Case, place: Path, whole: float, reference: dict[str, str], rng: random.Random) -> Counts:
    """One trial of a case that takes so long where nothing disturbs it."""
    counts = Counts(trials=1)
    place.mkdir()
    if rng.random() < 0.5:
        # Runs write a few hundred times, all other commands a few times.
        number = int(rng.expovariate(1 / 60)) if case.resumes else rng.randrange(6)
        end = performed(case.command(place), in_a_write(number))
    else:
        end = performed(case.command(place), kill_after=rng.uniform(0.0, 1.05 * whole))
    if end.status == 0:
        counts.never_hindered = 1
    else:
        resumable = (place / "out/checkpoint/state.pt").is_file()
        if case.resumes and resumable and rng.random() < 0.3:
            performed(case.command(place, resume=True), kill_after=rng.uniform(0.0, whole))
        ended(case, place, counts, end)
    compared(place, reference, counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    target, rng = options.json and options.json.absolute(), random.Random(options.seed)
    cases = [case for case in CASES if case.name in options.cases]
    prepared(options.work, cases)
    end = time.monotonic() + 60.0 * options.minutes
    totals, whole, reference = {}, {}, {}
    for case in cases:
        whole[case.name], reference[case.name] = whole_run(case)
        totals[case.name] = Counts()
        print(f"{case.name}: {whole[case.name]:.1f} s", flush=True)
    trial = 0
    while time.monotonic() < end:
        # Quick commands come as often as slow ones.
        case = cases[trial % len(cases)]
        trial += 1
        shutil.rmtree(PLACE)
        counts = tried(case, PLACE, whole[case.name], reference[case.name], rng)
        totals[case.name].add(counts)
        if counts.different or counts.remains or counts.tracebacks:
            shutil.copytree(PLACE, f"trial-{trial}")
        print(trial, case.name, {k: v for k, v in asdict(counts).items() if v}, flush=True)
        if target:
            found = {"command": "python benchmarks/trust/kills.py WORK", "seed": options.seed}
            found["kills"] = sum(c.trials - c.never_hindered for c in totals.values())
            found["cases"] = {name: asdict(total) for name, total in totals.items()}
            target.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
