"""Settings of commands from anywhere, the command line, TOML files or Python, and what is wrong with them."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cryograd.config import Command, to_toml
from cryograd.errors import CryogradError
from cryograd.version import __version__

# Fields whose name would hide a method of the model, or is a word of Python.
_SPELLINGS = {"json_output": "--json", "class_number": "--class"}

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
    """Settings of a TOML file by field name; hyphens may stand for underscores.

    Raises
    ------
    CryogradError
        It is no file that can be read, not TOML, or gives a setting twice.
    """
    return parsed_toml(read_settings(path), path)


def read_settings(path: Path) -> str:
    """Text of a file of settings.

    Raises
    ------
    CryogradError
        It is no file that can be read, or not UTF-8.
    """
    try:
        # Whoever opened a pipe would wait for its other end.
        if path.exists() and not path.is_file():
            raise CryogradError("the configuration is not a file", path, "give a TOML file")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CryogradError(f"not valid TOML ({error})", path, "correct the file") from None
    # A name that holds NUL is a ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CryogradError(f"the configuration cannot be read ({reason})", path, "check the path") from None


def parsed_toml(text: str, source: Path) -> dict[str, Any]:
    """Settings of a TOML text by field name; ``source`` is where it is from, for messages.

    Raises
    ------
    CryogradError
        It is not TOML, or gives a setting twice.
    """
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise CryogradError("not valid TOML (nested too deeply)", source, "correct the file") from None
    # Bad TOML, and numbers that are too long for Python.
    except ValueError as error:
        raise CryogradError(f"not valid TOML ({error})", source, "correct the file") from None
    settings = {key.replace("-", "_"): value for key, value in found.items()}
    if len(settings) < len(found):
        raise CryogradError("a setting is given twice, with - and with _", source, "leave out one of them")
    return settings


def record(command: str, config: Command) -> str:
    """A command and its settings as the text of ``run.toml``, which `recorded` reads."""
    return f"# cryograd {__version__} {command}\n\n{to_toml(config)}"


def recorded(text: str, source: Path) -> tuple[str, dict[str, Any]]:
    """Command and settings of a run from its record.

    Raises
    ------
    CryogradError
        The record is not TOML, or names no command.
    """
    settings, first = parsed_toml(text, source), re.match(r"# cryograd \S+ (\w+)\n", text)
    if first is None:
        raise CryogradError("its first line names no command", source, "restore the file")
    return first[1], settings


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
