from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryograd import reconstruct
from cryograd.cli import abinitio
from cryograd.cli.main import main
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.simulate import Simulation, simulate
from cryograd.report import map_images
from cryograd.rotations import random_rotations

ITERATIONS = 5
BOX, PIXEL_SIZE = 16, 4.0


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


@dataclass
class FakePosterior:
    rotations: np.ndarray
    shifts: np.ndarray
    log_evidence: np.ndarray
    entropy: np.ndarray
    max_probability: np.ndarray
    effective_size: np.ndarray
    visited: np.ndarray
    classes: np.ndarray


@dataclass
class FakeState:
    """The interface of the engine's state, as far as the shell uses it."""

    iteration: int
    total_iterations: int
    stage: str
    radius: float
    resolution: float
    volume: torch.Tensor
    mask: torch.Tensor
    extent: float
    history: list[dict[str, Any]]
    posterior: FakePosterior
    symmetry: str
    solver_bytes = 0

    @property
    def classes(self) -> list["FakeState"]:
        return [self] * self.posterior.classes.shape[1]

    def state_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "posterior"}
        plain["history"] = [dict(row) for row in self.history]
        posterior = {k: torch.as_tensor(v.copy()) for k, v in vars(self.posterior).items()}
        return plain | {"posterior": posterior}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Any]) -> "FakeState":
        posterior = FakePosterior(**{k: v.numpy() for k, v in saved["posterior"].items()})
        return cls(**{**saved, "posterior": posterior})


@dataclass
class FakeEngine:
    """An engine whose map after iteration i depends on the seed, i and the map before, as the real one's."""

    before_iteration: Callable[[int], None] = field(default=lambda iteration: None)

    def abinitio(
        self,
        particles: Particles,
        config: Any,
        resume: FakeState | None = None,
        reading: Callable[[int, int], None] | None = None,
    ) -> Iterator[FakeState]:
        n = len(particles)
        if reading is not None:
            reading(n, n)
        first = 1 if resume is None else resume.iteration + 1
        volume = torch.zeros(BOX, BOX, BOX) if resume is None else resume.volume
        history = [] if resume is None else list(resume.history)
        for iteration in range(first, ITERATIONS + 1):
            self.before_iteration(iteration)
            rng = np.random.default_rng((config.seed, iteration))
            volume = 0.5 * volume + torch.as_tensor(
                ball() + 0.05 * rng.standard_normal((BOX,) * 3, dtype=np.float32)
            )
            history = [
                *history,
                {
                    "iteration": iteration,
                    "stage": "march" if iteration < ITERATIONS else "poses",
                    "resolution": 40.0 / iteration,
                    "radius": float(iteration),
                    "log_evidence": -100.0 + iteration,
                    "entropy": 1.0,
                    "step": 0.5,
                    "noise": 1.0,
                    "seconds": {"score": 0.25, "step": 0.5},
                },
            ]
            posterior = FakePosterior(
                random_rotations(n, rng),
                rng.normal(0.0, 3.0, (n, 2)),
                rng.normal(size=n),
                rng.uniform(0.0, 2.0, n),
                rng.uniform(0.0, 1.0, n),
                rng.uniform(1.0, 9.0, n),
                np.ones(n, dtype=bool),
                rng.dirichlet(np.ones(config.classes), n),
            )
            yield FakeState(
                iteration,
                ITERATIONS,
                history[-1]["stage"],
                float(iteration),
                40.0 / iteration,
                volume,
                torch.ones_like(volume),
                BOX * PIXEL_SIZE,
                history,
                posterior,
                config.symmetry,
            )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """A stand-in for the engine: five instant iterations. Reports get no surfaces, which take seconds."""
    monkeypatch.setattr(map_images, "render_surface", lambda *args: np.zeros((4, 4, 4), dtype=np.uint8))
    fake = FakeEngine()
    monkeypatch.setattr(reconstruct, "abinitio", fake.abinitio)
    monkeypatch.setattr(abinitio, "State", FakeState)
    monkeypatch.setattr(abinitio, "full_volume", lambda last, particles: (last.volume.numpy(), PIXEL_SIZE))
    return fake


def tree(folder: Path) -> set[str]:
    """Names of all files and folders below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
