from collections.abc import Callable
from pathlib import Path

import pytest

from cryograd.cli.options import resolve
from cryograd.config import Abinitio, Command, to_toml
from cryograd.errors import CryogradError

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


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CryogradError, match="cannot be read"):
        abinitio(**GIVEN, config=tmp_path / "absent.toml")


def test_a_resumed_run_takes_its_own_record_as_default(tmp_path: Path) -> None:
    before = Abinitio(particles=Path("a.star"), output=tmp_path, symmetry="D2", seed=9)
    (tmp_path / "run.toml").write_text(to_toml(before))
    config = abinitio(output=tmp_path, resume=True)
    assert config == before.model_copy(update={"resume": True})


def test_a_new_run_does_not_take_another_runs_record(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('symmetry = "D2"\n')
    assert abinitio(particles=Path("a.star"), output=tmp_path).symmetry == "C1"
