"""What hostile inputs are given to: the functions behind the commands, whose results are looked at."""

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from cryograd import recipe
from cryograd.cli import inspect, report, runs, select
from cryograd.cli.options import resolve
from cryograd.config import COMMANDS
from cryograd.data.mrc import refuse_constant
from cryograd.data.read import read_particles
from cryograd.data.star import read_star, refuse_unwritable, write_particles_star
from cryograd.engine.parts import restored
from cryograd.errors import CryogradError
from cryograd.maps import Map
from cryograd.output import checkpoint
from cryograd.output.begin import begun
from cryograd.output.folder import RunFolder
from cryograd.output.header import read_header
from cryograd.report import half_maps, map_images, plots
from cryograd.report.load import load_run
from cryograd.report.remarks import remarks
from cryograd.settings import read_settings, record, recorded

Use = Callable[[Path, random.Random], None]


class WrongError(Exception):
    """The program took an input, and what it made of it is wrong."""


def refused_without_trace(output: Path, use: Callable[[], None]) -> None:
    """Call what writes a file, which must not be there, in part or whole, where it is refused."""
    try:
        use()
    except BaseException as error:
        left = [path for path in output.parent.iterdir() if output.name in path.name]
        if left and isinstance(error, CryogradError):
            raise WrongError(f"refused, and left {left[0].name}") from error
        raise
    if any(path.name.endswith(".tmp") for path in output.parent.iterdir()):
        raise WrongError("left a temporary file")


def _hostile(place: Path) -> Path:
    return next(path for path in place.iterdir() if path.name in ("hostile.star", "hostile.cs"))


def _inspect(place: Path, rng: random.Random) -> None:
    """All facts, as text and as JSON, and the file without faults."""
    clean = place / "written.star" if rng.random() < 0.5 else None
    settings = {"particles": _hostile(place), "write_clean": clean, "invert_contrast": rng.random() < 0.2}

    def use() -> None:
        facts = inspect.run(COMMANDS["inspect"](**settings))
        inspect.summary(facts)
        json.dumps(facts, allow_nan=False)

    refused_without_trace(place / "written.star", use)


_CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"where": "rlnDefocusU > 0"},
    {"where": "rlnImageName != 'x' and not rlnDefocusV < 0"},
    {"class_number": 1},
    {"half": 1},
    {"remove_duplicates": 0.0},
    {"remove_duplicates": 20.0},
    {"random": 3, "seed": 1},
)


def _select(place: Path, rng: random.Random) -> None:
    """Some particles, whose file reads as they were."""
    path, output = _hostile(place), place / "written.star"
    settings = {"particles": path, "output": output} | rng.choice(_CHOICES)
    if (place / "particles.star").exists() and rng.random() < 0.2:
        settings = {"particles": place / "particles.star", "output": output, "list": path}

    def use() -> None:
        found = select.run(COMMANDS["select"](**settings))
        select.summary(found)
        json.dumps(found, allow_nan=False)
        again = read_particles(output, require_images=False)
        if len(again) != found["n_kept"]:
            raise WrongError(f"{found['n_kept']} particles were kept, and {len(again)} are in the file")

    refused_without_trace(output, use)


def _carry(place: Path, rng: random.Random) -> None:
    """The particles as a run writes them, which read as they were."""
    particles, output = read_particles(_hostile(place), require_images=False), place / "written.star"
    refuse_unwritable(output, particles)
    refused_without_trace(output, lambda: write_particles_star(output, particles))
    again = read_particles(output, require_images=False)
    for name in ("defocus_u", "defocus_v", "astigmatism_angle", "phase_shift", "sign", "rotations", "shifts"):
        was, now = getattr(particles, name), getattr(again, name)
        if (was is None) != (now is None) or (
            was is not None and not np.allclose(was, now, rtol=1e-6, atol=1e-6)
        ):
            raise WrongError(f"{name} reads differently from the file that was written")


def _images(place: Path, rng: random.Random) -> None:
    """All images."""
    particles = read_particles(_hostile(place))
    for _, chunk in particles.in_chunks(100):
        if not np.isfinite(particles.images(chunk)).all():
            raise WrongError("an image is not finite")


def _table(place: Path, rng: random.Random) -> None:
    """The tables as numbers."""
    if (place / "hostile.star").exists():
        read_star(place / "hostile.star")


def _map(place: Path, rng: random.Random) -> None:
    """A map, which is written and read again."""
    found = Map.read(place / "hostile.mrcs")
    refuse_constant(found.values, place / "hostile.mrcs")
    found.write(place / "written.mrc")
    again = Map.read(place / "written.mrc")
    if not np.array_equal(found.values, again.values) or not np.isclose(found.pixel_size, again.pixel_size):
        raise WrongError("the map reads differently from the file that was written")


def _config(place: Path, rng: random.Random) -> None:
    """Settings of a command, whose record says the same."""
    name = rng.choice(list(COMMANDS))
    given: dict[str, Any] = {"config": place / "hostile.toml"}
    if rng.random() < 0.5 and "output" in COMMANDS[name].model_fields:
        given["output"] = place / "out"
    config = resolve(COMMANDS[name], name, given)
    (place / "run.toml").write_bytes(record(name, config).encode())
    again = resolve(COMMANDS[name], name, {"config": place / "run.toml"})
    if again.model_dump() != config.model_dump():
        raise WrongError("the record of the settings says something else")


def _record(place: Path, rng: random.Random) -> None:
    recorded(read_settings(place / "hostile.toml"), place / "hostile.toml")


def _report(place: Path, rng: random.Random) -> None:
    """The report; most without what takes long to draw, or without drawing at all."""
    if rng.random() < 0.8:
        remarks(load_run(place / "run"))
        return
    with ExitStack() as stack:
        empty = np.zeros((4, 4, 4), dtype=np.uint8)
        stack.enter_context(patch.object(map_images, "render_surface", lambda *given: empty))
        if rng.random() < 0.95:
            stack.enter_context(patch.object(map_images, "grey", lambda *given: empty[0]))
            for module in (plots, half_maps):
                stack.enter_context(patch.object(module, "as_svg", lambda *given: "<svg></svg>"))
        report.summary(report.run(COMMANDS["report"](folder=place / "run")))


def _resume(place: Path, rng: random.Random) -> None:
    """A run that goes on, up to where the engine would."""
    name = "abinitio" if rng.random() < 0.6 else "refine"

    def moments(particles: Any, config: Any, saved: Any = None, *more: Any, **others: Any) -> Any:
        restored(saved)
        return iter(())

    with patch.object(recipe, "abinitio", moments), patch.object(recipe, "refine", moments):
        metrics = runs.run(resolve(COMMANDS[name], name, {"output": place / "run", "resume": True}))
    runs.summary(metrics)
    json.dumps(metrics, allow_nan=False)


def _begin(place: Path, rng: random.Random) -> None:
    """A new run in the folder."""
    config = COMMANDS["abinitio"](particles="none.star", output=place / "run")
    with begun(RunFolder(place / "run"), config):
        pass


def _header(place: Path, rng: random.Random) -> None:
    read_header(place / "run/checkpoint/state.pt")


def _load(place: Path, rng: random.Random) -> None:
    checkpoint.load(place / "run/checkpoint/state.pt")


PARTICLES: dict[str, Use] = {"inspect": _inspect, "select": _select, "carry": _carry, "images": _images}
USES: dict[str, dict[str, Use]] = {
    "star": PARTICLES | {"table": _table},
    "cs": PARTICLES,
    "mrc": {"map": _map, "inspect": _inspect, "images": _images},
    "toml": {"config": _config, "record": _record},
    "checkpoint": {"header": _header, "load": _load, "resume": _resume},
    "folder": {"report": _report, "resume": _resume, "begin": _begin},
}
