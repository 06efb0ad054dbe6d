"""Records of any solver: to devices, into checkpoints and back; what cannot come back is not saved."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from cryograd.errors import CryogradError
from cryograd.steps.state import as_plain, as_record, on_device, tensors


@dataclass(frozen=True)
class Inner:
    """A user's own record."""

    value: float
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    """One that holds others."""

    parts: tuple[Any, ...]
    inner: Inner | None
    kind: Any = "field"


@dataclass
class Thawed:
    """A record that could change."""

    value: float


@dataclass(frozen=True)
class Derived:
    """A record with a field that it makes itself."""

    value: float
    twice: float = field(init=False, default=0.0)


class Undeclared(Inner):
    """A subclass that is no dataclass itself."""


class Pair(NamedTuple):
    """A tuple that would come back as a plain one."""

    first: float


def a_record() -> Outer:
    parts = (torch.ones(2, dtype=torch.bfloat16), (), (None, (True, 2, 3.0)), Inner(1.0, "a"), torch.zeros(0))
    return Outer(parts, Inner(float("inf")), ("kind", torch.ones(1, dtype=torch.complex64)))


def test_a_record_comes_back_from_a_file(tmp_path: Path) -> None:
    record = a_record()
    torch.save(as_plain(record), tmp_path / "state.pt")
    back = as_record(torch.load(tmp_path / "state.pt", weights_only=True))
    assert type(back) is Outer
    assert back.inner == record.inner
    assert back.parts[1:4] == record.parts[1:4]
    for a, b in zip(tensors(back), tensors(record), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_all_tensors_of_a_record_are_found_and_moved() -> None:
    record = a_record()
    assert [tensor.numel() for tensor in tensors(record)] == [2, 0, 1]
    elsewhere = on_device(record, "meta")
    assert all(tensor.device.type == "meta" for tensor in tensors(elsewhere))
    assert elsewhere.parts[1:4] == record.parts[1:4]
    assert on_device(None, "meta") is None


LOCAL = make_dataclass("LOCAL", [("value", float)], frozen=True)
NOWHERE = make_dataclass("Nowhere", [("value", float)], frozen=True)


def a_local_record() -> object:
    @dataclass(frozen=True)
    class Local:
        value: float

    return Local(1.0)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1.0], "builtins.list"),
        ({"a": 1.0}, "builtins.dict"),
        ({1.0}, "builtins.set"),
        (np.zeros(2), "numpy.ndarray"),
        (np.float64(1.0), "numpy.float64"),
        (Pair(1.0), "Pair"),
        (torch.nn.Parameter(torch.zeros(1)), "Parameter"),
        (Thawed(1.0), "Thawed, which is no frozen dataclass"),
        (Undeclared(1.0), "Undeclared, which is no frozen dataclass"),
        (Derived(1.0), "Derived, which has fields that its constructor does not take"),
        (a_local_record(), "Local, which is defined in a function"),
        (NOWHERE(1.0), "Nowhere, which is not found in its module"),
        (Inner, "builtins.type"),
        (torch.float32, "torch.dtype"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_could_not_be_read_back_is_not_saved(value: object, why: str) -> None:
    with pytest.raises(CryogradError, match=rf"state\.parts\[1\] is of type .*{why}"):
        as_plain(Outer((0.0, value), None))


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "builtins:eval",
        "cryograd.steps.state:as_plain",
        "cryograd.nowhere:State",
        "cryograd.steps.state:Nothing",
        "cryograd.steps.quadratic:Tensor",
        # What a module imports is not its own.
        "cryograd.solvers.em:Stepper",
        "cryograd.solvers.sagd:Lipschitz",
        "somewhere:State",
        "",
        None,
    ],
)
def test_nothing_but_known_records_is_called(kind: str | None) -> None:
    with pytest.raises(CryogradError, match="not known here"):
        as_record({"kind": kind, "fields": {}})


def test_a_record_with_other_fields_is_refused() -> None:
    plain = as_plain(Inner(1.0))
    del plain["fields"]["name"]
    with pytest.raises(CryogradError, match=r"fields \['name'\] of .*Inner were saved by another version"):
        as_record(plain)


def test_a_solver_that_is_not_imported_yet_is_found() -> None:
    import sys

    module = sys.modules.pop("cryograd.solvers.em", None)
    try:
        assert type(as_record({"kind": "cryograd.solvers.em:EMState", "fields": {}})).__name__ == "EMState"
    finally:
        if module is not None:
            sys.modules["cryograd.solvers.em"] = module


def test_a_tensor_alone_is_a_record() -> None:
    tensor: Tensor = torch.ones(2)
    assert as_record(as_plain(tensor)) is tensor
