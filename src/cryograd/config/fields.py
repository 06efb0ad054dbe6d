"""What all models of commands are made of: fields with help texts, and the values that they take."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from cryograd.registry import PRIORS, SOLVERS, Registry

Device = Literal["auto", "cpu", "cuda"]

# Numbers that arrays take.
_LARGEST = 2**63 - 1
# Bytes of a name and of a path, less what temporary names and files in folders add to them.
_LONGEST_PART, _LONGEST_PATH = 220, 3800


def _known_symmetry(name: str) -> str:
    """Upper-case name of a point group; the groups themselves are in `cryograd.model.symmetry`."""
    if re.fullmatch(r"[CD][1-9]\d{0,2}|[TO]|I[1-4]?", name.upper()) is None:
        raise ValueError("unknown point group; use C1, Cn, Dn, T, O, I or I1 to I4")
    return name.upper()


def _known_symmetries(names: str) -> str:
    """Upper-case names of one or several point groups, with commas between them."""
    return ",".join(map(_known_symmetry, re.split(", ?", names)))


def known_symmetry_or_auto(name: str) -> str:
    """As `_known_symmetries`, or ``auto``."""
    return name.lower() if name.lower() == "auto" else _known_symmetries(name)


Symmetry = Annotated[str, AfterValidator(_known_symmetry)]
Symmetries = Annotated[str, AfterValidator(_known_symmetries)]


def several(value: Any) -> Any:
    """A single path as the only one of several."""
    return (value,) if isinstance(value, str | Path) else value


def _chosen(registry: Registry, *members: str) -> AfterValidator:
    """Check that a choice is a name of a registry, or an object that has what such a choice has."""

    def known(choice: Any) -> Any:
        if isinstance(choice, str):
            if choice not in registry.names():
                raise ValueError(f"unknown {registry.kind}; {registry.remedy(choice)}")
        elif isinstance(choice, type) or not all(hasattr(choice, member) for member in members):
            raise ValueError(f"no {registry.kind}; give a name, or an object with {', '.join(members)}")
        return choice

    return AfterValidator(known)


# By name; the library also takes objects.
SolverChoice = Annotated[Any, _chosen(SOLVERS, "needs", "init", "step")]
PriorChoice = Annotated[Any, _chosen(PRIORS, "value", "gradient", "project")]


def option(default: Any, description: str, **settings: Any) -> Any:
    """Field with a help text, and how the command line spells it.

    Parameters
    ----------
    default
        Default value; ``...`` for none.
    description
        Help text.
    **settings
        ``positional`` (bool), ``short`` (str, such as ``-o``) and ``asked`` (bool, whether it must be given
        there) for the command line, ``recorded`` (bool) for whether the value belongs to the run's record,
        the rest for `pydantic.Field`.
    """
    spelling = {key: settings.pop(key) for key in ("positional", "short", "asked") if key in settings}
    exclude = not settings.pop("recorded", True)
    return Field(
        default, description=description, exclude=exclude, json_schema_extra=spelling or None, **settings
    )


def _refuse_impossible_name(name: str) -> None:
    """Refuse the name of a file that the system could not have, or a record could not hold."""
    if "\0" in name:
        raise ValueError("a name of a file cannot hold a NUL character; correct it")
    try:
        lengths = [len(part) for part in name.encode().split(b"/")]
    except UnicodeEncodeError:
        raise ValueError("the name of a file is not UTF-8; rename it") from None
    if max(lengths) > _LONGEST_PART or sum(lengths) + len(lengths) > _LONGEST_PATH:
        raise ValueError("the name of a file is too long; shorten it")


class Command(BaseModel):
    """What all commands share: immutable, and unknown fields are refused."""

    # Lines for the help, which a command's own model gives.
    examples: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _usable(cls, value: Any) -> Any:
        """Refuse names that no file can have, and numbers that no array can hold."""
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path):
                _refuse_impossible_name(str(one))
            if isinstance(one, int) and abs(one) > _LARGEST:
                raise ValueError(f"the number is too large; give at most {_LARGEST}")
        return value


def to_toml(config: Command) -> str:
    """A configuration as a TOML file that reads back the same, each setting below its description."""
    lines = []
    for name, field in type(config).model_fields.items():
        if field.exclude:
            continue
        value = getattr(config, name)
        lines.append(f"# {field.description}")
        # TOML has no null: what is taken from the data stays a comment.
        lines.append(f"# {name} =" if value is None else f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """A value in TOML: JSON's strings, numbers, truth values and lists are TOML's; objects have names."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Path):
        return json.dumps(str(value), ensure_ascii=False)
    return json.dumps(described(value))


def described(choice: Any) -> str:
    """An object in the place of a name, with its settings: the record of a run tells it from all names."""
    return f"{type(choice).__module__}:{choice!r}"


def json_option() -> Any:
    return option(False, "Print the result as JSON on standard output.", recorded=False)
