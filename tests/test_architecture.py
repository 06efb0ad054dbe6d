"""Imports point one way, up the list below and without circles within a package, and no file is long."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import cryograd

PACKAGE = Path(cryograd.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
LONGEST_FILE = 400

# A module may import its own package and the layers before its own; packages of one layer do not know
# each other.
LAYERS = [
    {"errors", "printable", "version", "locks"},
    {"threads", "fused", "atomic", "heap", "draws"},
    {"registry", "paths", "occupied"},
    {"config"},
    {"settings"},
    {"fourier", "rotations"},
    {"steps"},
    {"solvers"},
    {"model"},
    {"data"},
    {"maps"},
    {"images", "simulation", "selection"},
    {"pose"},
    {"objective"},
    {"validation"},
    {"engine"},
    {"inspection"},
    {"recipe"},
    {"results"},
    {"metrics"},
    {"examination"},
    {"report"},
    {"output"},
    {"library"},
    {"demonstration"},
    {"cli"},
    {"__init__", "__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported(source: str, module: str) -> Iterator[str]:
    """Dotted names within cryograd that a module's source imports, wherever in it.

    Of ``from a import b`` it is ``a.b``, whether ``b`` is a module or something in ``a``.
    """
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*base, node.module] if node.module else base)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "cryograd")


def package(name: str) -> str:
    """Package, or module, directly below cryograd that a dotted name belongs to."""
    below = [*name.split("."), "__init__"][1]
    # Anything that is no module is something in the package's own.
    return below if below in LAYER else "__init__"


def violations(source: str, module: str) -> list[str]:
    """Imports of a module that do not point up the list."""
    own = package(module)
    others = {name: package(name) for name in imported(source, module)}
    return [
        f"{module} imports {name}"
        for name, other in others.items()
        if other != own and LAYER[other] >= LAYER[own]
    ]


def containing(name: str, modules: Iterable[str]) -> str | None:
    """Module of a dotted name: the longest part of it from the start that is one of ``modules``."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        start = ".".join(parts[:end])
        found = next((module for module in (start, f"{start}.__init__") if module in modules), None)
        if found is not None:
            return found
    return None


def circles(sources: Mapping[str, str]) -> set[frozenset[str]]:
    """Sets of modules each of which imports all others of its set, directly or through others.

    Parameters
    ----------
    sources
        Source of each module by its dotted name, with ``__init__`` for a package's own.
    """
    direct = {
        module: {containing(name, sources) for name in imported(source, module)} - {None, module}
        for module, source in sources.items()
    }
    reached = {}
    for module in sources:
        found, waiting = set(), [module]
        while waiting:
            new = direct[waiting.pop()] - found
            found |= new
            waiting += new
        reached[module] = found
    return {
        frozenset(other for other in found if module in reached[other])
        for module, found in reached.items()
        if module in found
    }


def table_of_packages(text: str) -> list[set[str]]:
    """Names in the first column of the table under "What may import what", a set for each row."""
    section = text.split("## What may import what\n", 1)[1].split("\n## ", 1)[0]
    first_cells = re.findall(r"^\|([^|]*)\|", section, flags=re.MULTILINE)
    return [set(re.findall(r"`([^`]+)`", cell)) for cell in first_cells if "`" in cell]


def module_name(path: Path) -> str:
    return ".".join(["cryograd", *path.relative_to(PACKAGE).with_suffix("").parts])


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_up_the_list(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), module_name(path)) == []


def test_no_source_file_is_too_long() -> None:
    lengths = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_package_is_in_the_list_once() -> None:
    listed = [name for layer in LAYERS for name in layer]
    assert sorted(listed) == sorted({package(module_name(path)) for path in SOURCES})


def test_no_module_imports_itself_through_others() -> None:
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in SOURCES}
    assert circles(sources) == set()


def test_the_guide_has_the_same_list() -> None:
    assert table_of_packages(CONTRIBUTING.read_text(encoding="utf-8")) == LAYERS


def test_the_guide_s_table_is_read_in_its_order() -> None:
    text = """
## Before

| `other` | a table |

## What may import what

A module imports `this`:

| package | what it knows |
| --- | --- |
| `errors`, `threads` | nothing |
| `model` | `image` = CTF · slice |

## After

| `another` | table |
"""
    assert table_of_packages(text) == [{"errors", "threads"}, {"model"}]


@pytest.mark.parametrize(
    "back",
    [
        "from cryograd.data.a import A",
        "from cryograd.data import a",
        "from cryograd.data import a as first, other",
        "import cryograd.data.a",
        "import cryograd.data.a as first",
        "from . import a",
        "from .a import *",
        "def late():\n    from cryograd.data.a import A",
        "class B:\n    def late(self):\n        import cryograd.data.a",
        "if TYPE_CHECKING:\n    from cryograd.data.a import A",
        "try:\n    from cryograd.data.a import A\nexcept ImportError:\n    A = None",
    ],
)
def test_a_circle_is_found(back: str) -> None:
    sources = {
        "cryograd.data.__init__": "",
        "cryograd.data.a": "from cryograd.data.b import B",
        "cryograd.data.b": back,
        "cryograd.data.c": "from cryograd.data.a import A",
    }
    assert circles(sources) == {frozenset({"cryograd.data.a", "cryograd.data.b"})}


def test_long_and_separate_circles_are_found_whole() -> None:
    sources = {
        "cryograd.pose.a": "from cryograd.pose.b import B",
        "cryograd.pose.b": "from cryograd.pose import c, d",
        "cryograd.pose.c": "from .a import A",
        "cryograd.pose.d": "def f():\n    from cryograd.model import x",
        "cryograd.model.__init__": "from cryograd.model.x import X",
        "cryograd.model.x": "from cryograd.model import X",
    }
    assert circles(sources) == {
        frozenset({"cryograd.pose.a", "cryograd.pose.b", "cryograd.pose.c"}),
        frozenset({"cryograd.model.__init__", "cryograd.model.x"}),
    }


def test_one_way_imports_are_no_circle() -> None:
    sources = {
        "cryograd.__init__": "",
        "cryograd.data.__init__": "",
        "cryograd.data.a": "import torch\nfrom cryograd import data\nfrom cryograd.data import b, c",
        "cryograd.data.b": "from cryograd.data.c import a",
        "cryograd.data.c": "a = 'import cryograd.data.a'",
    }
    assert circles(sources) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryograd.fourier", "from cryograd.model.ctf import ctf"),
        ("cryograd.model.ctf", "from cryograd import cli"),
        ("cryograd.solvers.sgd", "import cryograd.objective.likelihood"),
        ("cryograd.solvers.sgd", "from ..model import ctf"),
        ("cryograd.pose.product", "def f():\n    from cryograd.engine import loop"),
        ("cryograd.recipe", "from cryograd import reconstruct"),
        ("cryograd.rotations", "from cryograd.fourier import HalfDisc"),
        ("cryograd.images.held", "from cryograd.simulation.blobs import random_blobs"),
    ],
)
def test_an_import_down_or_across_the_list_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cryograd.data.ctfs", "from cryograd.model.ctf import ctf"),
        ("cryograd.data.ctfs", "from .particles import Particles"),
        ("cryograd.cli.main", "from cryograd.version import __version__"),
        ("cryograd.cli.main", "import torch"),
        ("cryograd.draws", "import numpy"),
    ],
)
def test_an_import_up_the_list_is_allowed(module: str, source: str) -> None:
    assert violations(source, module) == []
