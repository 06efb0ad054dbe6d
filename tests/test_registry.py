"""Choices that are found because their file is there."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryograd.errors import CryogradError
from cryograd.objective.priors import registry as priors
from cryograd.registry import APART, Registry
from cryograd.solvers import registry as solvers
from cryograd.solvers.sgd import SGD

SOLVER = """
from dataclasses import dataclass
from cryograd.solvers.sgd import SGD

@dataclass(frozen=True)
class Heavy(SGD):
    momentum: float = 0.99

SOLVER = Heavy()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty package ``chosen`` on the path."""
    folder = tmp_path / "chosen"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "registry.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "chosen"]:
        del sys.modules[name]


def test_a_file_is_all_that_a_new_choice_takes(package: Path) -> None:
    registry = Registry("chosen", "solver")
    assert registry.names() == ()
    (package / "heavy_ball.py").write_text(SOLVER, encoding="utf-8")
    assert registry.names() == ("heavy-ball",)
    assert "chosen.heavy_ball" not in sys.modules
    solver = registry.get("heavy-ball")
    assert solver.momentum == 0.99
    assert registry.name_of(type(solver)) == "heavy-ball"
    assert solvers.resolved(solver) is solver
    assert solvers.name_of(solver) == "chosen.heavy_ball:Heavy"


def test_every_module_is_a_choice_and_keeps_the_promise() -> None:
    for registry in (solvers, priors):
        folder = Path(registry.__file__).parent  # type: ignore[arg-type]
        files = {path.stem for path in folder.glob("*.py")} - APART - {"__init__"}
        assert {name.replace("-", "_") for name in registry.names()} == files
        for name in registry.names():
            registry.get(name)


def test_names_are_known_without_the_time_that_torch_takes() -> None:
    """Help texts and the validation of options need them."""
    code = (
        "import sys, cryograd.config\n"
        "from cryograd.objective.priors import registry as priors\n"
        "from cryograd.solvers import registry as solvers\n"
        "assert solvers.names() and priors.names()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(CryogradError, match=r"unknown solver 'sgdd'.*did you mean 'sgd'"):
        solvers.get("sgdd")
    with pytest.raises(CryogradError, match=r"unknown prior 'uniform'.*use car, .* or nonnegative"):
        priors.get("uniform")
    # A file that is there, but no choice.
    with pytest.raises(CryogradError, match="unknown solver 'registry'"):
        solvers.get("registry")


@pytest.mark.parametrize("thing", [SGD, 3, None])
def test_what_is_no_solver_is_refused(thing: object) -> None:
    with pytest.raises(CryogradError, match="is no solver"):
        solvers.resolved(thing)  # type: ignore[arg-type]
