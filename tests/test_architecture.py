"""Imports between the program's packages point one way, up the list below, and no file is long."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import cryograd

PACKAGE = Path(cryograd.__file__).parent
LONGEST_FILE = 400

# A module may import its own package and the layers before its own; packages of one layer do not know
# each other.
LAYERS = [
    {"__init__"},
    {"errors", "threads", "atomic", "heap"},
    {"config"},
    {"fourier", "rotations"},
    {"solvers"},
    {"model"},
    {"data"},
    {"pose"},
    {"objective"},
    {"validation"},
    {"posterior_table"},
    {"state"},
    {"setup"},
    {"minibatch", "half_sets"},
    {"prepare", "halves"},
    {"reconstruct", "refine"},
    {"checkpoint", "inspection"},
    {"report"},
    {"cli"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported(source: str, module: str) -> Iterator[str]:
    """Dotted names within cryograd that a module's source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "cryograd")
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*base, node.module] if node.module else base)
            if origin == "cryograd":
                yield from (f"cryograd.{alias.name}" for alias in node.names)
            elif origin.startswith("cryograd."):
                yield origin


def package(name: str) -> str:
    """Package, or module, directly below cryograd that a dotted name belongs to."""
    below = [*name.split("."), "__init__"][1]
    return "__init__" if below.startswith("__") else below


def violations(source: str, module: str) -> list[str]:
    """Imports of a module that do not point up the list."""
    own = package(module)
    others = {name: package(name) for name in imported(source, module)}
    return [
        f"{module} imports {name}"
        for name, other in others.items()
        if other != own and LAYER[other] >= LAYER[own]
    ]


def module_name(path: Path) -> str:
    return ".".join(["cryograd", *path.relative_to(PACKAGE).with_suffix("").parts])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_up_the_list(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module_name(path)) == []


def test_no_source_file_is_too_long() -> None:
    lengths = {
        module_name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_package_is_in_the_list() -> None:
    found = {package(module_name(path)) for path in PACKAGE.rglob("*.py")}
    assert found <= set(LAYER)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryograd.fourier", "from cryograd.model.ctf import ctf"),
        ("cryograd.model.ctf", "from cryograd import cli"),
        ("cryograd.solvers.sgd", "import cryograd.objective.likelihood"),
        ("cryograd.solvers.sgd", "from ..model import ctf"),
        ("cryograd.pose.product", "def f():\n    from cryograd.reconstruct import abinitio"),
        ("cryograd.rotations", "from cryograd.fourier import HalfDisc"),
        ("cryograd.checkpoint", "from cryograd.inspection.images import examine"),
    ],
)
def test_an_import_down_or_across_the_list_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryograd.data.cache", "from cryograd.model.ctf import ctf"),
        ("cryograd.data.cache", "from .particles import Particles"),
        ("cryograd.cli.main", "from cryograd import __version__, reconstruct"),
        ("cryograd.cli.main", "import torch"),
        ("cryograd.errors", "from cryograd import __version__"),
    ],
)
def test_an_import_up_the_list_is_allowed(module: str, source: str) -> None:
    assert violations(source, module) == []
