import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd.cli.options import resolve
from cryograd.config import Abinitio, Command
from cryograd.errors import CryogradError
from cryograd.output import checkpoint
from cryograd.settings import record

GIVEN = {"particles": Path("a.star"), "output": Path("out")}


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def abinitio(**given: object) -> Abinitio:
    config: Command = resolve(Abinitio, "abinitio", given)
    assert isinstance(config, Abinitio)
    return config


def test_the_command_line_counts_before_the_file_and_the_file_before_the_default(toml: Callable) -> None:
    config = abinitio(**GIVEN, seed=5, config=toml('seed = 4\nsymmetry = "D2"\n'))
    assert (config.seed, config.symmetry, config.minibatch) == (5, "D2", 200)


def test_a_file_can_give_what_is_required(toml: Callable) -> None:
    assert abinitio(config=toml('particles = "a.star"\noutput = "out"\n')).output == Path("out")


def test_hyphens_in_a_file_are_underscores(toml: Callable) -> None:
    assert abinitio(**GIVEN, config=toml("max-shift = 7\n")).max_shift == 7.0


def test_a_typo_in_a_file_is_refused_with_a_suggestion(toml: Callable) -> None:
    path = toml("max_shft = 7\n")
    with pytest.raises(CryogradError) as error:
        abinitio(**GIVEN, config=path)
    assert str(error.value) == f"unknown option 'max_shft', {path}, did you mean max_shift?"


def test_a_bad_value_in_a_file_is_named_with_the_file(toml: Callable) -> None:
    path = toml('symmetry = "Q"\n')
    with pytest.raises(CryogradError) as error:
        abinitio(**GIVEN, config=path)
    assert error.value.where == f"symmetry in {path}"


@pytest.mark.parametrize("text", ["seed = \n", "seed = 1\nseed = 2\n", "\xff"])
def test_a_file_that_is_not_toml_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CryogradError, match="not valid TOML"):
        abinitio(**GIVEN, config=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"seed = {'9' * 5000}\n", "not valid TOML .*4300 digits"),
        (f"seed = {'[' * 5000}{']' * 5000}\n", "not valid TOML .nested too deeply"),
        (f"seed = {'9' * 30}\n", "the number is too large"),
        ("max-shift = 1\nmax_shift = 2\n", "a setting is given twice"),
        ('mask = "a\\u0000b"\n', "cannot hold a NUL character"),
        (f'mask = "{"a" * 300}"\n', "the name of a file is too long"),
        (f'mask = "{"a/" * 3000}"\n', "the name of a file is too long"),
    ],
    ids=["digits", "nested", "large", "twice", "nul", "name", "path"],
)
def test_hostile_settings_are_refused(toml: Callable, text: str, message: str) -> None:
    with pytest.raises(CryogradError, match=message):
        abinitio(**GIVEN, config=toml(text))


def test_settings_in_a_pipe_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.toml")
    with pytest.raises(CryogradError, match="is not a file"):
        abinitio(**GIVEN, config=tmp_path / "settings.toml")


def test_names_of_files_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(CryogradError, match=r"is not UTF-8 .*, cryograd abinitio --mask, rename it"):
        abinitio(**GIVEN, mask=Path(os.fsdecode(b"caf\xe9.mrc")))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CryogradError, match="cannot be read"):
        abinitio(**GIVEN, config=tmp_path / "absent.toml")


def test_a_resumed_run_takes_its_own_record_as_default(tmp_path: Path) -> None:
    before = Abinitio(particles=Path("a.star"), output=tmp_path, symmetry="D2", seed=9)
    text = record("abinitio", before)
    checkpoint.save(tmp_path / "checkpoint/state.pt", checkpoint.Checkpoint({}, 0.0, text, {}))
    config = abinitio(output=tmp_path, resume=True)
    assert config == before.model_copy(update={"resume": True})


def test_a_new_run_does_not_take_another_runs_record(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('symmetry = "D2"\n')
    assert abinitio(particles=Path("a.star"), output=tmp_path).symmetry == "C1"
