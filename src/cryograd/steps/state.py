"""What solvers remember, in general: records that move between devices, boxes and checkpoints.

A record is a frozen dataclass whose fields are tensors, numbers, strings, None, tuples of these, or other
records. No function here knows any of their classes, so that a new solver brings its own.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from cryograd.errors import CryogradError
from cryograd.steps.protocol import SolverState

Record = TypeVar("Record")
# Exact types: a subclass, such as NumPy's float64, would be read back as something else or not at all.
PLAIN = (bool, int, float, str, type(None))
REMEDY = "keep tensors, numbers, strings, None, tuples of these, or frozen dataclasses of modules"


def on_device(record: Record, device: torch.device | str) -> Record:
    """The record with its tensors on a device."""
    if isinstance(record, Tensor):
        return cast(Record, record.to(device))
    if isinstance(record, tuple):
        return cast(Record, tuple(on_device(part, device) for part in record))
    if not _is_record(record):
        return record
    return type(record)(**{name: on_device(part, device) for name, part in _parts(record)})


def tensors(record: object) -> Iterator[Tensor]:
    """The tensors in a record, and in what it is made of."""
    if isinstance(record, Tensor):
        yield record
    elif isinstance(record, tuple):
        for part in record:
            yield from tensors(part)
    elif _is_record(record):
        for _, part in _parts(record):
            yield from tensors(part)


def resized(state: SolverState, size: int) -> Any:
    """What a solver remembers, for maps of another box whose Fourier coefficients are the same."""
    return state.resized(size)


def as_plain(record: object, where: str = "state") -> Any:
    """A record as dictionaries that know its kind, which `torch.load` reads with ``weights_only``.

    Parameters
    ----------
    record
        Record, or what a field of one may hold.
    where
        What it is called in errors.

    Raises
    ------
    CryogradError
        Something in it could not be read back. It is refused here, before hours of work hang on a checkpoint
        that cannot be loaded.
    """
    if type(record) in PLAIN or type(record) is Tensor:
        return record
    if type(record) is tuple:
        return tuple(as_plain(part, f"{where}[{number}]") for number, part in enumerate(record))
    if not is_dataclass(record) or isinstance(record, type):
        raise _refused(where, record, "which a checkpoint does not keep")
    wrong = _wrong_with(type(record))
    if wrong:
        raise _refused(where, record, wrong)
    kind = f"{type(record).__module__}:{type(record).__qualname__}"
    return {
        "kind": kind,
        "fields": {name: as_plain(part, f"{where}.{name}") for name, part in _parts(record)},
    }


def as_record(plain: Any) -> Any:
    """Undo `as_plain`.

    Nothing but frozen dataclasses is called, and no module is imported but this program's own: a checkpoint
    that comes from elsewhere runs no code. A user's own solver has to be imported before.

    Raises
    ------
    CryogradError
        A kind is not known here, or has other fields than were saved.
    """
    if isinstance(plain, tuple):
        return tuple(as_record(part) for part in plain)
    if not isinstance(plain, dict):
        return plain
    kind = plain.get("kind")
    cls = _class_of(str(kind))
    parts = {name: as_record(part) for name, part in plain.get("fields", {}).items()}
    expected = {field.name for field in fields(cls)}
    if set(parts) != expected:
        raise CryogradError(
            f"fields {sorted(set(parts) ^ expected)} of {kind} were saved by another version",
            "checkpoint",
            "start the run anew",
        )
    return cls(**parts)


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _parts(record: object) -> Iterator[tuple[str, Any]]:
    """Names and values of a record's fields."""
    for field in fields(cast(Any, record)):
        yield field.name, getattr(record, field.name)


def _refused(where: str, value: object, why: str) -> CryogradError:
    cls = type(value)
    return CryogradError(f"{where} is of type {cls.__module__}.{cls.__qualname__}, {why}", where, REMEDY)


def _wrong_with(cls: type) -> str:
    """Why a dataclass could not be made again from its fields; empty where it could."""
    # A subclass that is no dataclass itself may have more than its parent's fields.
    settings = vars(cls).get("__dataclass_params__")
    if settings is None or not settings.frozen:
        return "which is no frozen dataclass"
    if not all(field.init for field in fields(cls)):
        return "which has fields that its constructor does not take"
    if "<locals>" in cls.__qualname__:
        return "which is defined in a function, where nothing finds it again"
    if _found(sys.modules.get(cls.__module__), cls.__qualname__) is not cls:
        return "which is not found in its module under its name"
    return ""


def _found(module: object, qualified: str) -> object:
    """What a module calls by a qualified name; None where it has no such thing."""
    found: object = module
    for name in qualified.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    return found


def _class_of(kind: str) -> type:
    """The frozen dataclass of a kind."""
    module, _, qualified = kind.partition(":")
    if module.startswith("cryograd.") and module not in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    found = _found(sys.modules.get(module), qualified)
    # Own classes by their full name alone: a module also holds what it imports.
    known = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, qualified)
    if not known or _wrong_with(cast(type, found)):
        raise CryogradError(
            f"{kind!r} is not known here as a solver's state",
            "checkpoint",
            "import the module of the solver before resuming, or start the run anew",
        )
    return cast(type, found)
