"""Command-line options from the fields of a configuration, and their merging with TOML files.

An option on the command line counts before ``--config run.toml``, and that before the default. Of a run that
is resumed, its own ``run.toml`` stands in for the defaults.
"""

import difflib
import inspect
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from cyclopts import Parameter
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cryograd.config import Command
from cryograd.errors import CryogradError

# Fields whose name would hide a method of the model.
_SPELLINGS = {"json_output": "--json"}


def spelling(name: str) -> str:
    """Option of a field as it is typed: ``max_shift`` is ``--max-shift``."""
    return _SPELLINGS.get(name, "--" + name.replace("_", "-"))


def is_positional(field: FieldInfo) -> bool:
    """Whether a field is given by its place instead of its name."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def positional(model: type[Command]) -> list[str]:
    """Names of a model's positional fields as help texts show them."""
    return [name.upper() for name, field in model.model_fields.items() if is_positional(field)]


def _plain_type(annotation: Any) -> Any:
    """Type of a field without constraints and without None: the model checks those."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = [t for t in get_args(annotation) if t is not NoneType]
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    return annotation


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Parameter of a field in a command's signature."""
    kind = _plain_type(field.annotation)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    names = [spelling(name), *([str(extra["short"])] if "short" in extra else [])]
    description = field.description or ""
    # A required field is not required of the command line, because a TOML file may give it.
    default = None if field.is_required() else field.default
    settings = Parameter(
        name=None if is_positional(field) else names,
        help=f"{description} [required]" if field.is_required() else description,
        # --no-x is there to take back what a TOML file says, and a file says nothing about these.
        negative="" if field.exclude else None,
        show_default=kind is not bool and default is not None,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_ONLY if is_positional(field) else inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind | None if default is None else kind, settings],
    )


def signature(model: type[Command]) -> inspect.Signature:
    """Signature of a command that takes the fields of a model, and ``--config``."""
    parameters = [_parameter(name, field) for name, field in model.model_fields.items()]
    settings = Parameter(help="TOML file with options, such as another run's run.toml.", show_default=False)
    layer = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, settings],
    )
    return inspect.Signature([*parameters, layer])


def resolve(model: type[Command], name: str, given: Mapping[str, Any]) -> Command:
    """Validated configuration of a command.

    Parameters
    ----------
    model
        Model of the command.
    name
        Its name, for errors.
    given
        Options that stand on the command line, by field name, and ``config``.

    Raises
    ------
    CryogradError
        An option is missing, unknown or out of range, or there is no run to resume.
    """
    layers = [(Path(given["config"]), read_toml(given["config"]))] if given.get("config") else []
    if given.get("resume") and given.get("output"):
        record = Path(given["output"]) / "run.toml"
        if not record.is_file():
            raise CryogradError(
                "there is no run to resume", given["output"], "start the run without --resume"
            )
        layers.append((record, read_toml(record)))
    values: dict[str, Any] = {key: value for key, value in given.items() if key != "config"}
    sources: dict[str, object] = {}
    for path, settings in layers:
        fresh = {key: value for key, value in settings.items() if key not in values}
        values |= fresh
        sources |= dict.fromkeys(fresh, path)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _one_error(error, model, name, sources) from None


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


def _one_error(
    error: ValidationError, model: type[Command], name: str, sources: Mapping[str, object]
) -> CryogradError:
    """First error of a validation, in the words of the command line."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    if first["type"] == "missing":
        typed = field.upper() if is_positional(model.model_fields[field]) else spelling(field)
        return CryogradError(f"{typed} is missing", f"cryograd {name}", f"see cryograd {name} --help")
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, model.model_fields, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"see cryograd {name} --help for the options"
        return CryogradError(f"unknown option {field!r}", sources.get(field, f"cryograd {name}"), remedy)
    where = f"{field} in {sources[field]}" if field in sources else f"cryograd {name} {spelling(field)}"
    if first["type"] == "value_error":
        # Written here or in the configuration, as "what; remedy".
        what, _, remedy = first["msg"].removeprefix("Value error, ").partition("; ")
        return CryogradError(f"{what} {first['input']!r}", where, remedy)
    return CryogradError(
        f"bad value {first['input']!r}", where, first["msg"].replace("Input should", "it should")
    )
