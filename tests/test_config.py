import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from cryograd.config import Abinitio, Command, Compare, Demo, Inspect, Report, Select, Simulate, to_toml

MODELS = [Abinitio, Compare, Demo, Inspect, Report, Select, Simulate]


def abinitio(**values: object) -> Abinitio:
    return Abinitio.model_validate({"particles": "a.star", "output": "out", **values})


@pytest.mark.parametrize("model", MODELS)
def test_every_option_has_a_description(model: type[Command]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description[0].isupper(), name


def test_only_files_and_folders_are_required() -> None:
    for model in MODELS:
        for name, field in model.model_fields.items():
            if field.is_required():
                assert field.annotation is Path, f"{model.__name__}.{name} has no default"


def test_the_record_reads_back_the_same() -> None:
    config = abinitio(
        particles='odd "name" \\ µ.star', symmetry="d7", max_shift=12.5, minibatch=64, invert_contrast=True
    )
    assert Abinitio.model_validate(tomllib.loads(to_toml(config))) == config


def test_the_record_leaves_out_what_is_not_of_the_run() -> None:
    settings = tomllib.loads(to_toml(abinitio(resume=True, json_output=True)))
    assert "resume" not in settings
    assert "json_output" not in settings


def test_a_value_from_the_data_is_a_comment_in_the_record() -> None:
    assert "\n# particle_diameter =\n" in to_toml(abinitio())


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        abinitio().seed = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["C1", "c4", "D2", "T", "o", "I", "I3"])
def test_point_groups_are_known_in_any_case(name: str) -> None:
    assert abinitio(symmetry=name).symmetry == name.upper()


def test_several_point_groups_have_commas_between_them() -> None:
    assert abinitio(symmetry="c1, D2,c4").symmetries == ("C1", "D2", "C4")


@pytest.mark.parametrize("name", ["", "C", "C0", "D", "X", "I5", "T2", "C1 ", "C1,", "C1,C0"])
def test_other_point_groups_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="unknown point group"):
        abinitio(symmetry=name)


def test_the_point_groups_are_those_that_the_model_has() -> None:
    from cryograd.model.symmetry import group_matrices

    for name in ("C1", "C12", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"):
        assert len(group_matrices(abinitio(symmetry=name).symmetry)) >= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("particle_diameter", 0.0),
        ("max_shift", -1.0),
        ("minibatch", 0),
        ("seed", -1),
        ("device", "tpu"),
        ("prior", "uniform"),
        ("max_resolution", float("inf")),
        ("pixel_size", float("nan")),
        ("nonsense", 1),
    ],
)
def test_bad_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        abinitio(**{name: value})
