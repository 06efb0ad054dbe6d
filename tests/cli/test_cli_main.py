import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd import __version__
from cryograd.cli.main import COMMANDS
from cryograd.settings import spelling


def test_the_version_is_printed(cryograd_command: Callable) -> None:
    outcome = cryograd_command("--version")
    assert (outcome.status, outcome.out.strip(), outcome.err) == (0, __version__, "")


def test_help_names_every_command(cryograd_command: Callable) -> None:
    outcome = cryograd_command("--help")
    assert outcome.status == 0
    for name in COMMANDS:
        assert f" {name} " in outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_every_option_and_an_example(name: str, cryograd_command: Callable) -> None:
    outcome = cryograd_command(name, "--help")
    assert outcome.status == 0
    for field in COMMANDS[name].model_fields:
        assert spelling(field).removeprefix("--") in outcome.out.lower(), field
    assert COMMANDS[name].examples[0] in outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    from cryograd.cli.main import build_app
    from cryograd.cli.options import resolve

    app = build_app()
    for example in COMMANDS[name].examples:
        if "--config" in example or "--resume" in example:
            continue
        chosen, bound, _ = app.parse_args(shlex.split(example)[1:], exit_on_error=False, print_error=False)
        assert chosen.__name__ == name
        resolve(COMMANDS[name], name, bound.arguments)


def test_slow_libraries_are_not_imported_for_help() -> None:
    code = (
        "import sys\n"
        "from cryograd.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numba', 'matplotlib', 'pandas', 'scipy', 'numpy'} & set(sys.modules)),"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_program_is_installed() -> None:
    program = Path(sys.executable).with_name("cryograd")
    done = subprocess.run([program, "compare"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: FIRST is missing, cryograd compare, see cryograd compare --help\n"


def test_unknown_commands_are_refused_with_a_suggestion(refused: Callable) -> None:
    assert refused("abinito") == 'unknown command "abinito", cryograd, did you mean "abinitio"?'


def test_unknown_options_are_refused_with_a_suggestion(refused: Callable) -> None:
    assert "did you mean --max-shift?" in refused("abinitio", "a.star", "-o", "b", "--max-shft", 3)


def test_extra_arguments_are_refused(refused: Callable) -> None:
    assert "unexpected argument 'c'" in refused("abinitio", "a", "c", "-o", "b")


@pytest.mark.parametrize("arguments", [["a.star"], ["-o", "out"]])
def test_missing_arguments_are_named(arguments: list[str], refused: Callable) -> None:
    missing = "--output" if arguments == ["a.star"] else "PARTICLES"
    assert refused("abinitio", *arguments).startswith(f"{missing} is missing")


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("--symmetry", "Q3", "unknown point group 'Q3', cryograd abinitio --symmetry, use C1"),
        ("--particle-diameter", "-3", "it should be greater than 0"),
        ("--threads", "many", "int"),
        ("--device", "tpu", "cuda"),
        ("--prior-weight", "nan", "cryograd abinitio --prior-weight, it should be"),
    ],
)
def test_bad_values_are_refused(option: str, value: str, what: str, refused: Callable) -> None:
    assert what in refused("abinitio", "a.star", "-o", "b", option, value)


def test_unexpected_errors_keep_their_traceback(
    cryograd_command: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import cryograd.cli.report

    def broken(config: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cryograd.cli.report, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cryograd_command("report", tmp_path)


def test_ctrl_c_gives_status_130(
    cryograd_command: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import cryograd.cli.report

    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cryograd.cli.report, "run", interrupted)
    outcome = cryograd_command("report", tmp_path)
    assert (outcome.status, outcome.err) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("what", "printed"), [("first\nsecond", "first second"), ("bad \x1b[2Jname", "bad \\x1b[2Jname")]
)
def test_an_error_is_one_line_that_cannot_command_the_terminal(
    cryograd_command: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, printed: str
) -> None:
    import cryograd.cli.report
    from cryograd.errors import CryogradError

    def bad(config: object) -> None:
        raise CryogradError(what, "here", "mend it")

    monkeypatch.setattr(cryograd.cli.report, "run", bad)
    assert cryograd_command("report", tmp_path).err == f"error: {printed}, here, mend it\n"


def test_what_the_system_refuses_is_one_line(
    refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import cryograd.cli.report

    def full(config: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "page.html")

    monkeypatch.setattr(cryograd.cli.report, "run", full)
    assert refused("report", tmp_path).startswith("the system refused (No space left on device), page.html,")


@pytest.mark.parametrize(("output", "status"), [("pipe", 141), ("/dev/full", 2)])
def test_output_that_cannot_be_written_is_no_traceback(output: str, status: int) -> None:
    code = (
        "import cryograd.cli.report\n"
        "from cryograd.cli.main import main\n"
        "cryograd.cli.report.run = lambda config: {'report': 'x'}\n"
        "main(['report', '.'])"
    )
    if output == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(output, os.O_WRONLY)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (output != "pipe"), done.stderr


def test_json_replaces_the_text(cryograd_command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import cryograd.cli.compare

    monkeypatch.setattr(
        cryograd.cli.compare, "run", lambda config: {"kind": "maps", "first": str(config.first)}
    )
    outcome = cryograd_command("compare", "a.mrc", "b.mrc", "--json")
    assert json.loads(outcome.out) == {"kind": "maps", "first": "a.mrc"}


def test_an_error_that_cannot_be_written_is_told_by_the_status() -> None:
    code = "from cryograd.cli.main import main; main(['report', '/nowhere'])"
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", code], stderr=full).returncode == 2
