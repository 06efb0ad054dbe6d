"""Settings of commands from anywhere, the command line, TOML files or Python, and what is wrong with them."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cryograd.config import Command
from cryograd.errors import CryogradError

# Fields whose name would hide a method of the model.
_SPELLINGS = {"json_output": "--json"}

Model = TypeVar("Model", bound=Command)


def spelling(name: str) -> str:
    """Option of a field as it is typed: ``max_shift`` is ``--max-shift``."""
    return _SPELLINGS.get(name, "--" + name.replace("_", "-"))


def is_positional(field: FieldInfo) -> bool:
    """Whether a field is given by its place instead of its name."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def is_asked(field: FieldInfo) -> bool:
    """Whether a field that the library can do without has to be given on the command line."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("asked"))


def validated(
    model: type[Model], values: Mapping[str, Any], name: str, sources: Mapping[str, object] | None = None
) -> Model:
    """Settings as a model.

    Parameters
    ----------
    model
        Model of the command.
    values
        Settings by field name.
    name
        What the command is called in errors, such as ``cryograd refine``.
    sources
        Files that settings come from, by field name.

    Raises
    ------
    CryogradError
        A setting is missing, unknown or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _one_error(error, model, name, sources or {}) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Settings of a TOML file by field name; hyphens may stand for underscores."""
    try:
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CryogradError(
            f"the configuration cannot be read ({error.strerror})", path, "check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CryogradError(f"not valid TOML ({error})", path, "correct the file") from None
    return {key.replace("-", "_"): value for key, value in settings.items()}


def _shown(value: object) -> str:
    """A value in a message; of one that is long only what it is."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"of type {type(value).__name__}"


def _one_error(
    error: ValidationError, model: type[Command], name: str, sources: Mapping[str, object]
) -> CryogradError:
    """First error of a validation, in the words of the command line."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    # Functions of the library have the options of the commands.
    help_text = f"{name.replace('.', ' ')} --help"
    if first["type"] == "missing":
        typed = field.upper() if is_positional(model.model_fields[field]) else spelling(field)
        return CryogradError(f"{typed} is missing", name, f"see {help_text}")
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, model.model_fields, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"see {help_text} for the options"
        return CryogradError(f"unknown option {field!r}", sources.get(field, name), remedy)
    where = f"{field} in {sources[field]}" if field in sources else f"{name} {spelling(field)}"
    if first["type"] == "value_error":
        # Written here or in the configuration, as "what; remedy".
        what, _, remedy = first["msg"].removeprefix("Value error, ").partition("; ")
        return CryogradError(f"{what} {_shown(first['input'])}", where, remedy)
    return CryogradError(
        f"bad value {_shown(first['input'])}", where, first["msg"].replace("Input should", "it should")
    )
