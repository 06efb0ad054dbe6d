"""The examples of the documents work: what is Python runs, and what is a command is understood.

A block that is fenced as ``python`` is run, after those before it in its document. A block that cannot be run
is fenced as ``text``, and an excerpt of the source as ``py``.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryograd
from cryograd.cli.main import build_app
from cryograd.cli.options import resolve
from cryograd.config import COMMANDS
from cryograd.output.folder import RunFolder
from cryograd.output.header import FORMAT, Header
from cryograd.report import map_images
from cryograd.simulation.molecule import SYMMETRY, molecule

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
BOX, PIXEL, N = 16, 12.0, 40


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced blocks of some languages."""
    pattern = rf"^```(?:{'|'.join(languages)})\n(.*?)^```$"
    return re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of the command lines of the program in fenced and indented blocks.

    What follows after two spaces says what the command does.
    """
    fenced = "\n".join(blocks(text, "sh", "text"))
    indented = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    for line in re.sub(r"\\\n\s*", "", f"{fenced}\n{indented}").splitlines():
        command = re.match(r"(?:\.venv/bin/)?cryograd ((?:\S| (?=\S))+)", line)
        if command is not None:
            yield shlex.split(command[1])


RUNNING = [name for name in DOCUMENTS if blocks((ROOT / name).read_text(), "python")]
COMMANDING = [name for name in DOCUMENTS if list(commands((ROOT / name).read_text()))]


def test_documents_have_examples() -> None:
    assert {"README.md", "docs/usage.md"} <= {*RUNNING} & {*COMMANDING}
    assert sum(len(list(commands((ROOT / name).read_text()))) for name in COMMANDING) > 15


def test_commands_are_found_in_blocks() -> None:
    text = """
Text with `cryograd nonsense`.

    cryograd demo -o a       see it at work
    python -m cryograd compare a b
    .venv/bin/cryograd refine particles.star \\
        --volume 'a b.mrc'

```sh
cryograd report run1
```
"""
    assert list(commands(text)) == [
        ["report", "run1"],
        ["demo", "-o", "a"],
        ["refine", "particles.star", "--volume", "a b.mrc"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("document", RUNNING)
def test_examples_in_python_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cryograd.Map(molecule(BOX, PIXEL), PIXEL)
    cryograd.simulate(made, output=tmp_path, particles=N, symmetry=SYMMETRY, snr=0.6)
    monkeypatch.chdir(tmp_path)
    # Surfaces take seconds.
    monkeypatch.setattr(map_images, "render_surface", lambda *args: np.zeros((4, 4, 4), dtype=np.uint8))
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks((ROOT / document).read_text(), "python"), 1):
        exec(compile(block, f"{document}, example {number}", "exec"), names)


@pytest.mark.parametrize("document", COMMANDING)
def test_commands_in_examples_are_understood(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = build_app()
    for arguments in commands((ROOT / document).read_text()):
        chosen, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        name, given = chosen.__name__, dict(bound.arguments)
        # These take their options from a run that is there already.
        record = f'# cryograd {cryograd.__version__} {name}\nparticles = "particles.star"\n'
        if given.get("resume"):
            folder = RunFolder(Path(given["output"]))
            folder.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            folder.checkpoint.write_bytes(Header(FORMAT, cryograd.__version__, record).line())
            folder.record.write_text(record)
        if given.get("config"):
            Path(given["config"]).parent.mkdir(parents=True, exist_ok=True)
            Path(given["config"]).write_text(record)
        resolve(COMMANDS[name], name, given)
