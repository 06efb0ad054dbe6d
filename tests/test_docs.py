"""The documents name what there is: functions, tests and options; and their lines are short."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cryograd
from cryograd import config
from cryograd.settings import spelling

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "cryograd", ROOT / "tests"
NAMING = tuple(
    f"docs/{name}.md" for name in ("method", "conventions", "experiments", "efficient_refinement", "tour")
)
TOUR = ROOT / "docs" / "tour.md"
LONGEST_TOUR = 150
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *ROOT.glob("docs/*.md"),
    )
)
LONGEST = 120
# A path of identifiers, at least one of which looks like code: with a dot, an underscore or a capital inside.
NAME = re.compile(r"\.?[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
FILE = re.compile(r".*\.(star|cs|mrc|mrcs|json|jsonl|toml|html|xml|md|py|pdb)")
# Names of files' columns, and of other programs.
FOREIGN = re.compile(r"rln\w+|cryograd[A-Z]\w*|numpy\..*|(alignments3D|blob|ctf)/.*|\w+_A")
# Of the command line itself.
COMMAND_LINE = {"config", "help", "json"}
# Of earlier versions, which the documents say what has become of.
FORMER = {"no-nonnegative"}


def quoted(document: str) -> list[str]:
    """What stands between backticks in a document, outside its indented examples."""
    lines = (ROOT / document).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("    "))
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


def defined(tree: ast.Module, module: str) -> set[str]:
    """Full names of a module's functions, classes, constants, and of what classes have."""
    names: set[str] = set()

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(f"{prefix}.{node.name}")
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{prefix}.{node.name}")
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            for target in targets:
                names.update(f"{prefix}.{name.id}" for name in ast.walk(target) if isinstance(name, ast.Name))

    add(tree.body, module)
    return names


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Full names of all that the source has, and all their ends."""
    full: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        full |= {module} | defined(ast.parse(path.read_text()), module)
    return {name.split(".", count)[-1] for name in full for count in range(name.count(".") + 1)}


def is_name(text: str) -> bool:
    """Whether a quotation is the name of something in the source."""
    if (
        text.startswith("test_")
        or FILE.fullmatch(text)
        or FOREIGN.fullmatch(text)
        or not NAME.fullmatch(text)
    ):
        return False
    return "." in text or "_" in text or re.search(r"[a-z][A-Z]", text) is not None


@pytest.mark.parametrize("document", NAMING)
def test_every_name_in_the_documents_is_one_of_the_source(document: str, known: set[str]) -> None:
    names = {text.strip(".") for text in quoted(document) if is_name(text)}
    assert sorted(names - known) == []


@pytest.mark.parametrize("document", NAMING[:2])
def test_every_test_in_the_documents_is_there(document: str) -> None:
    missing, file = [], ""
    for text in quoted(document):
        found = re.fullmatch(r"(?:tests/)?([\w/]*?(?:test_\w+\.py)?)(?:::)?(test_\w+)?", text)
        if found is None or not text.count("test_"):
            continue
        # Where the file is left out it is the last one that was named.
        file = found[1] or file
        path = TESTS / file
        if not path.is_file() or (found[2] and f"def {found[2]}(" not in path.read_text()):
            missing.append(f"{file}::{found[2]}")
    assert missing == []


@pytest.mark.parametrize("document", ["README.md", "docs/usage.md", *NAMING[:2], "docs/tour.md"])
def test_every_option_in_the_documents_is_one_of_a_command(document: str) -> None:
    commands = [c for c in vars(config).values() if isinstance(c, type) and issubclass(c, config.Command)]
    fields = {spelling(name).removeprefix("--") for command in commands for name in command.model_fields}
    given = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", (ROOT / document).read_text()))
    assert sorted(given - fields - COMMAND_LINE - FORMER) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_of_documents_are_short(document: str) -> None:
    lines = (ROOT / document).read_text().splitlines()
    # A row of a table cannot be broken.
    long = [
        number
        for number, line in enumerate(lines, 1)
        if len(line) > LONGEST and not line.strip().startswith("|")
    ]
    assert long == []


def excerpts(text: str) -> list[tuple[str, list[str]]]:
    """Fenced excerpts of the source: the file that the first line names, and what of it is shown.

    A line of dots stands for what is left out.
    """
    found = []
    for block in re.findall(r"^```py\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        first, _, rest = block.partition("\n")
        assert first.startswith("# "), f"an excerpt begins with the name of its file, not with {first!r}"
        found.append((first.removeprefix("# "), re.split(r"^\s*\.\.\.$", rest, flags=re.MULTILINE)))
    return found


def missing(shown: list[str], source: str) -> list[str]:
    """Pieces of an excerpt that do not follow each other in a source, whatever the whitespace."""
    left = " ".join(source.split())
    lacking = []
    for piece in (" ".join(part.split()) for part in shown):
        before, there, after = left.partition(piece)
        if there or not piece:
            left = after if there else before
        else:
            lacking.append(piece)
    return lacking


def test_excerpts_of_the_tour_are_the_source() -> None:
    found = excerpts(TOUR.read_text())
    assert len(found) >= 5
    lacking = {name: missing(shown, (SOURCE / name).read_text()) for name, shown in found}
    assert {name: pieces for name, pieces in lacking.items() if pieces} == {}


def test_an_excerpt_that_is_not_the_source_is_found() -> None:
    source = "def f(x):\n    y = x\n    return g(\n        y\n    )\n"
    text = "```py\n# a/b.py\n    y = x\n    ...\n    y )\n```\n"
    assert excerpts(text) == [("a/b.py", ["    y = x\n", "\n    y )\n"])]
    assert missing(excerpts(text)[0][1], source) == []
    assert missing(["y = x", "def f(x):"], source) == ["def f(x):"]
    assert missing(["y = z"], source) == ["y = z"]


def test_files_that_the_tour_names_are_there() -> None:
    named = re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", TOUR.read_text())
    assert len(named) > 20
    assert [name for name in named if not any((top / name).exists() for top in (SOURCE, ROOT))] == []


def test_the_tour_is_short() -> None:
    assert len(TOUR.read_text().splitlines()) <= LONGEST_TOUR


@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_parser") is None,
    reason="Sphinx and MyST are not installed",
)
def test_the_site_has_all_that_is_exported_and_every_page(tmp_path: Path) -> None:
    """As `make docs` builds it: warnings, such as of links that lead nowhere, are errors."""
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api.html").read_text()
    exported = {name for name in cryograd.__all__ if name != "__version__"}
    assert {name for name in exported if f'id="cryograd.{name}"' not in page} == set()
    records = ("ClassResult", "Comparison", "Moment", "Selection", "Simulated")
    assert [name for name in records if not re.search(rf'id="cryograd\.[\w.]+\.{name}"', page)] == []
    functions = ("Reconstruct", "Abinitio", "Refine", "Simulate", "Compare", "Select")
    for command in (getattr(config, name) for name in functions):
        kept = {"particles", "output", "volume", "json_output", "model", "first", "second"}
        assert [name for name in {*command.model_fields} - kept if f">{name}<" not in page] == []
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in tmp_path.glob("*.html")} >= pages
    # Nothing is fetched by those who read it.
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(\w+:)?//', page)
    assert loaded == []
