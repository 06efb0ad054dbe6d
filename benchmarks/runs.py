"""Runs of the command line in processes of their own, whose time is measured."""

import resource
import subprocess
import sys
from pathlib import Path


def processor_seconds(command: str, particles: Path, folder: Path, **options: object) -> float | None:
    """Run a command into a folder; its processor time in seconds, None if it was done before."""
    if (folder / "metrics.json").exists():
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = Path(sys.executable).with_name("cryograd")
    line = [str(program), command, str(particles), "-o", str(folder)]
    for name, value in options.items():
        line += [f"--{name.replace('_', '-')}", str(value)]
    subprocess.run(line, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
