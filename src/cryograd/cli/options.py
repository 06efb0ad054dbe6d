"""Command-line options from the fields of a configuration, and their merging with TOML files.

An option on the command line counts before ``--config run.toml``, and that before the default. Of a run that
is resumed, the settings in its checkpoint stand in for the defaults.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from cyclopts import Parameter
from pydantic.fields import FieldInfo

from cryograd.config import Command
from cryograd.errors import CryogradError
from cryograd.output.folder import RunFolder
from cryograd.output.record import resumed_settings
from cryograd.settings import is_asked, is_positional, read_toml, spelling, validated


def positional(model: type[Command]) -> list[str]:
    """Names of a model's positional fields as help texts show them."""
    return [name.upper() for name, field in model.model_fields.items() if is_positional(field)]


def _plain_type(annotation: Any) -> Any:
    """Type of a field without constraints and without None: the model checks those."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = [t for t in get_args(annotation) if t is not NoneType]
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    # Choices are given by name here.
    return str if annotation is Any else annotation


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Parameter of a field in a command's signature."""
    kind = _plain_type(field.annotation)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    names = [spelling(name), *([str(extra["short"])] if "short" in extra else [])]
    description = field.description or ""
    # A required field is not required of the command line, because a TOML file may give it.
    default = None if field.is_required() else field.default
    needed = field.is_required() or is_asked(field)
    settings = Parameter(
        name=None if is_positional(field) else names,
        help=f"{description} [required]" if needed else description,
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
        folder = RunFolder(Path(given["output"]))
        layers.append((folder.checkpoint, resumed_settings(folder, name)))
    values: dict[str, Any] = {key: value for key, value in given.items() if key != "config"}
    sources: dict[str, object] = {}
    for path, settings in layers:
        fresh = {key: value for key, value in settings.items() if key not in values}
        values |= fresh
        sources |= dict.fromkeys(fresh, path)
    config = validated(model, values, f"cryograd {name}", sources)
    for field in model.model_fields:
        if is_asked(model.model_fields[field]) and getattr(config, field) is None:
            typed = spelling(field)
            raise CryogradError(f"{typed} is missing", f"cryograd {name}", f"see cryograd {name} --help")
    return config
