from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryograd import recipe
from cryograd.cli.main import main
from cryograd.config import Abinitio
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.engine.parts import Behind, Moment
from cryograd.engine.program import Program, Step
from cryograd.engine.run import Members, Run
from cryograd.engine.setup import symmetries_of
from cryograd.engine.state import Side, State, Track
from cryograd.engine.table import PosteriorTable
from cryograd.model.noise import Noise
from cryograd.objective.priors import registry as priors
from cryograd.pose.memory import Memory
from cryograd.report import map_images, plots
from cryograd.rotations import random_rotations
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.solvers import registry as solvers
from cryograd.solvers.em import EMState

ITERATIONS = 5
BOX, PIXEL_SIZE = 16, 4.0
# What a run in half-sets leaves in its folder.
FILES = {
    "run.toml",
    "log.jsonl",
    "volume.mrc",
    "volume_sharpened.mrc",
    "half1.mrc",
    "half2.mrc",
    "mask.mrc",
    "local_resolution.mrc",
    "standard_error.mrc",
    "fsc.star",
    "fsc.xml",
    "anisotropy.json",
    "particles.star",
    "metrics.json",
    "report.html",
    "checkpoint",
    "checkpoint/state.pt",
}


@dataclass
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def cryograd_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process."""

    def run(*arguments: object) -> Outcome:
        status = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            status = 0 if end.code is None else int(end.code)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def refused(cryograd_command: Callable[..., Outcome]) -> Callable[..., str]:
    """Run a command line that must be refused with status 2 and one line on standard error: the result."""

    def run(*arguments: object) -> str:
        outcome = cryograd_command(*arguments)
        assert outcome.status == 2, outcome
        assert outcome.out == ""
        assert len(outcome.error_lines) == 1, outcome.err
        assert outcome.err.startswith("error: ")
        return outcome.err.removeprefix("error: ").strip()

    return run


def ball(box: int = BOX, radius: float = 4.0) -> np.ndarray:
    """A soft ball with a lump, so that it has no symmetry."""
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    density = np.exp(-0.5 * (x**2 + y**2 + z**2) / (0.5 * radius) ** 2)
    density += 0.7 * np.exp(-0.5 * ((x - 3) ** 2 + (y - 1) ** 2 + z**2) / 1.5**2)
    return density.astype(np.float32)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 24 small simulated particles."""
    folder = tmp_path_factory.mktemp("simulated")
    optics = Optics("group", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL_SIZE, BOX)
    simulate(ball(), PIXEL_SIZE, Simulation(24, (optics,), snr=1.0), folder)
    return folder


@dataclass(frozen=True)
class NoImages:
    """Images that a stand-in for the engine never looks at."""

    particles: Particles
    size: int = BOX
    extent: float = BOX * PIXEL_SIZE
    diameter: float = BOX * PIXEL_SIZE
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def expect(self, indices: np.ndarray) -> None:
        raise NotImplementedError


@dataclass
class FakeEngine:
    """An engine whose map after iteration i depends on the seed, i and the map before, as the real one's."""

    before_iteration: Callable[[int], None] = field(default=lambda iteration: None)

    def abinitio(
        self,
        particles: Particles,
        config: Abinitio,
        resume: Mapping[str, Any] | None = None,
        reading: Callable[[int, int], None] | None = None,
    ) -> Iterator[Moment]:
        n = len(particles)
        if reading is not None:
            reading(n, n)
        run = a_run(particles, config)
        state = a_state(run, config) if resume is None else State.from_state_dict(resume["state"])
        if state.place == ITERATIONS:
            yield Moment(0, 1, Behind(), run, state)
        while state.place < ITERATIONS:
            self.before_iteration(state.iteration + 1)
            changed(state, config)
            yield Moment(0, 1, Behind(), run, state)


def a_run(particles: Particles, config: Abinitio) -> Run:
    """A run of five steps."""
    every = np.arange(len(particles))
    return Run(
        images=NoImages(particles),
        mask=torch.ones(BOX, BOX, BOX),
        max_shift=10.0,
        solver=solvers.get("em"),
        prior=priors.resolved("none", 1.0, 0.0),
        seed=config.seed,
        symmetries=symmetries_of(config),
        sides=(Members(every, every, (every,)),),
        program=Program(tuple(Step("march", i, float(i + 1)) for i in range(ITERATIONS)), 1.0, 5.0),
        precision="highest",
    )


def a_state(run: Run, config: Abinitio) -> State:
    """Its state before the first."""
    tracks = tuple(
        Track(symmetry, torch.zeros(BOX, BOX, BOX), EMState(), share=1.0 / run.classes)
        for symmetry in run.symmetries
    )
    return State(
        iteration=0,
        place=0,
        total_iterations=ITERATIONS,
        stage="march",
        radius=1.0,
        sides=[Side(tracks, Noise(torch.ones(1, BOX // 2 + 1)))],
        mask=run.mask,
        extent=run.images.extent,
        size=BOX,
        start_radius=1.0,
        scale=1.0,
        curves=None,
        table=PosteriorTable.empty(len(run.images.particles), classes=config.classes),
        memory=Memory.empty(0),
        history=[],
    )


def changed(state: State, config: Abinitio) -> None:
    """Another map, poses and row of the history."""
    state.iteration, state.place = state.iteration + 1, state.place + 1
    number, table, n = state.iteration, state.table, len(state.table.visited)
    state.stage, state.radius = "march" if number < ITERATIONS else "poses", float(number)
    rng = np.random.default_rng((config.seed, number))
    noise = torch.as_tensor(0.05 * rng.standard_normal((BOX,) * 3, dtype=np.float32))
    volume = 0.5 * state.volume + torch.as_tensor(ball()) + noise
    side = state.sides[0]
    state.sides[0] = replace(side, tracks=tuple(replace(track, volume=volume) for track in side.tracks))
    table.top_rotations[:, 0], table.top_shifts[:, 0] = random_rotations(n, rng), rng.normal(0.0, 3.0, (n, 2))
    table.log_evidence[:], table.entropy[:] = rng.normal(size=n), rng.uniform(0.0, 2.0, n)
    table.top_probabilities[:, 0], table.effective_size[:] = rng.uniform(size=n), rng.uniform(1.0, 9.0, n)
    table.classes[:] = rng.dirichlet(np.ones(config.classes), n)
    state.history.append(
        {
            "iteration": number,
            "stage": state.stage,
            "resolution": 40.0 / number,
            "radius": float(number),
            "log_evidence": -100.0 + number,
            "entropy": 1.0,
            "step": 0.5,
            "noise": [1.0],
            "seconds": {"score": 0.25, "step": 0.5},
        }
    )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """A stand-in for the engine: five instant iterations. Reports lack what takes seconds to draw."""
    monkeypatch.setattr(map_images, "render_surface", lambda *args: np.zeros((4, 4, 4), dtype=np.uint8))
    for name in ("course", "views", "shifts", "certainty", "stage_times"):
        monkeypatch.setattr(plots, name, lambda *args: "<svg></svg>")
    for name in ("slices", "projections"):
        monkeypatch.setattr(map_images, name, lambda *args: [])
    fake = FakeEngine()
    monkeypatch.setattr(recipe, "abinitio", fake.abinitio)
    return fake


def tree(folder: Path) -> set[str]:
    """Names of all files and folders below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
