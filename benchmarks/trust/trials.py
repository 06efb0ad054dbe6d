"""Commands on tiny particles that are hindered in processes of their own, and what they leave in the end.

A process is a fork of this one, in which everything is imported and compiled already: what is tried is the
program, and not the start of the interpreter.
"""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

# All that a command would import when its turn comes.
import cryograd.cli.compare
import cryograd.cli.demo
import cryograd.cli.inspect
import cryograd.cli.report
import cryograd.cli.runs
import cryograd.cli.simulate
import cryograd.report.inspection  # noqa: F401
from cryograd.cli.main import main
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.report import map_images
from cryograd.report.surface import render_surface
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate

# All trials have one place: files hold paths.
PLACE = Path("trial")
BOX, PIXEL, IMAGES = 32, 6.0, 40
# What says how long something took, or when, is another one every time.
TIMED = ("log.jsonl", "metrics.json", "report.html", "run.toml", "comparison.json", "checkpoint/state.pt")


@dataclass(frozen=True)
class Case:
    """A command to try.

    Parameters
    ----------
    name
        What it is called in the tables.
    line
        Its command line without the output, in a folder with the particles.
    resumes
        Whether it goes on with ``--resume``; all others are begun anew.
    again
        What the command line has besides when it is given once more.
    file
        Name of the output if it is a single file.
    """

    name: str
    line: tuple[str, ...]
    resumes: bool = True
    again: tuple[str, ...] = ()
    file: str | None = None

    def command(self, place: Path, again: bool = False, resume: bool = False) -> list[str]:
        """The command line for an output in a place."""
        output = ["-o", str(place / (self.file or "out"))]
        if resume:
            return [self.line[0], *output, "--resume"]
        return [*self.line, *output, *(self.again if again else ())]


_RUN = ("--checkpoint-seconds", "0", "--threads", "1", "--max-shift", "12", "--symmetry", SYMMETRY)
_HALVES = ("--volume", "sim/truth.mrc", "--minibatch", "20", "--passes", "1", *_RUN)
CASES = (
    Case("abinitio", ("abinitio", "sim/particles.star", "--iterations", "4", "--starts", "2", *_RUN)),
    Case(
        "abinitio, 2 classes",
        ("abinitio", "sim/particles.star", "--iterations", "4", "--classes", "2", *_RUN),
    ),
    Case("refine", ("refine", "sim/particles.star", *_HALVES)),
    Case(
        "reconstruct",
        ("reconstruct", "sim/particles.star", *_RUN, "--passes", "1", "--minibatch", "20", "--starts", "1"),
    ),
    Case("simulate", ("simulate", "sim/truth.mrc", "--particles", "200"), resumes=False),
    Case(
        "compare",
        ("compare", "sim/truth.mrc", "sim/truth.mrc"),
        resumes=False,
        again=("--overwrite",),
        file="aligned.mrc",
    ),
    Case(
        "inspect", ("inspect", "sim/particles.star"), resumes=False, again=("--overwrite",), file="page.html"
    ),
)


@dataclass
class End:
    """How a process ended.

    Parameters
    ----------
    status
        Exit status; minus the number of a signal.
    error
        What it said on standard error.
    seconds
        That it took.
    """

    status: int
    error: str
    seconds: float


@dataclass
class Counts:
    """What came of the trials of one case."""

    trials: int = 0
    never_hindered: int = 0
    resumed: int = 0
    begun_anew: int = 0
    identical: int = 0
    different: int = 0
    refused: int = 0
    tracebacks: int = 0
    remains: int = 0
    said: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        """Add those of other trials."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def prepared(folder: Path, cases: Sequence[Case] = CASES) -> None:
    """Make the particles in a folder, and go there."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path("sim/particles.star").is_file():
        optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
        simulate(molecule(BOX, PIXEL), PIXEL, Simulation(IMAGES, (optics,), snr=2.0, seed=5), Path("sim"))
        write_map(Path("sim/truth.mrc"), molecule(BOX, PIXEL), PIXEL)
    # The pictures of a report take longer than such a run.
    map_images.render_surface = partial(render_surface, pixels=16)
    Path("warm").mkdir(exist_ok=True)
    for case in cases:
        # What is compiled here is compiled in all forks.
        with contextlib.redirect_stdout(io.StringIO()):
            main(case.command(Path("warm") / case.name))
    shutil.rmtree("warm")


def whole_run(case: Case) -> tuple[float, dict[str, str]]:
    """Seconds that a case takes where nothing disturbs it, and digests of what it leaves."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    found = performed(case.command(PLACE))
    assert found.status == 0, found.error
    return found.seconds, digests(PLACE)


def performed(
    command: list[str], hinder: Callable[[], None] | None = None, kill_after: float | None = None
) -> End:
    """Run a command line in a fork.

    Parameters
    ----------
    command
        The command line.
    hinder
        Called in the fork before the command.
    kill_after
        Seconds after which it is killed.
    """
    # A pipe has room where files have none; what is said fits into it.
    began, (said, error) = time.monotonic(), os.pipe()
    child = os.fork()
    if child == 0:
        _become(command, hinder, error)
    os.close(error)
    status = None
    while status is None:
        found, waited = os.waitpid(child, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(waited)
        elif kill_after is not None and time.monotonic() - began > kill_after:
            os.kill(child, signal.SIGKILL)
            kill_after = None
        else:
            time.sleep(0.002)
    seconds = time.monotonic() - began
    with os.fdopen(said, errors="replace") as file:
        return End(status, file.read(), seconds)


def _become(command: list[str], hinder: Callable[[], None] | None, error: int) -> None:
    """Run a command line in this process, which ends here, with a descriptor as its standard error."""
    os.dup2(error, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = 0
    try:
        if hinder is not None:
            hinder()
        main(command)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def digests(place: Path) -> dict[str, str]:
    """Digest of every file in a folder; of those that hold times only that they are there."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_file():
            timed = name.endswith(TIMED)
            found[name] = "" if timed else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def ended(case: Case, place: Path, counts: Counts, hindered: End) -> None:
    """Give a command again that was hindered, and count how."""
    counts.tracebacks += "Traceback" in hindered.error
    resume = case.resumes and (place / "out/checkpoint/state.pt").is_file()
    end = performed(case.command(place, again=True, resume=resume))
    counts.resumed += resume
    counts.begun_anew += not resume
    counts.tracebacks += "Traceback" in end.error
    if end.status != 0:
        counts.refused += 1
        counts.said.append(end.error.strip()[-300:])


def compared(place: Path, reference: dict[str, str], counts: Counts) -> None:
    """Count whether a folder holds what it should."""
    now = digests(place)
    differing = sorted(name for name in reference if now.get(name) != reference[name])
    counts.identical += not differing
    counts.different += bool(differing)
    counts.remains += bool(set(now) - set(reference))
    if differing:
        counts.said.append(f"{place.name}: {', '.join(differing)[:200]}")
