"""The interface of the library: what its names are documented to take, and what its functions refuse."""

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryograd
from cryograd import CryogradError, Map, Particles
from cryograd.engine.parts import Moment
from cryograd.results import ClassResult
from cryograd.selection.select import Selection
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.order import Simulated
from cryograd.solvers.sgd import SGD
from cryograd.validation.comparison import Comparison

BOX, PIXEL, N = 16, 12.0, 20


@pytest.fixture(scope="module")
def truth() -> Map:
    return Map(molecule(BOX, PIXEL), PIXEL)


@pytest.fixture(scope="module")
def particles(truth: Map, tmp_path_factory: pytest.TempPathFactory) -> Particles:
    folder = tmp_path_factory.mktemp("interface") / "simulated"
    return cryograd.simulate(truth, output=folder, particles=N, symmetry=SYMMETRY, seed=3).particles


def parameters(thing: Callable[..., Any]) -> list[str]:
    """Names that a function, or a class for its record, is called with."""
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def undocumented(thing: Callable[..., Any]) -> list[str]:
    """Parameters that a docstring says nothing of."""
    _, _, described = (inspect.getdoc(thing) or "").partition("Parameters\n----------\n")
    said = {
        name.strip(" *") for line in described.split("\n") if line[:1].strip() for name in line.split(",")
    }
    return [name for name in parameters(thing) if name not in said]


def test_every_name_can_be_imported_and_is_listed() -> None:
    for name in cryograd.__all__:
        assert getattr(cryograd, name) is not None
    assert set(cryograd.__all__) <= set(dir(cryograd))
    assert sorted(cryograd.__all__) == sorted([*cryograd._HOMES, "__version__"])
    with pytest.raises(AttributeError, match="has no attribute 'reconstuct'"):
        cryograd.reconstuct  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", sorted({*cryograd.__all__} - {"__version__"}))
def test_every_name_is_documented(name: str) -> None:
    thing = getattr(cryograd, name)
    assert inspect.getdoc(thing)
    assert "Parameters\n----------\n" in (inspect.getdoc(thing) or "") or getattr(
        thing, "_is_protocol", False
    )
    if not getattr(thing, "_is_protocol", False):
        assert undocumented(thing) == []
    methods = {} if inspect.isfunction(thing) else vars(thing)
    for member, value in methods.items():
        function = getattr(value, "__func__", value)
        if not member.startswith("_") and inspect.isfunction(function):
            assert inspect.getdoc(function), member
            assert undocumented(function) == [], member
        if isinstance(value, property):
            assert inspect.getdoc(value), member


@pytest.mark.parametrize("record", [ClassResult, Comparison, Moment, Selection, Simulated])
def test_records_that_functions_return_are_documented(record: type) -> None:
    assert is_dataclass(record)
    assert [field.name for field in fields(record) if field.init] == parameters(record)
    assert undocumented(record) == []


def test_importing_the_package_imports_nothing_slow() -> None:
    code = (
        "import sys, cryograd\n"
        "cryograd.CryogradError, dir(cryograd), cryograd.__version__\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'scipy', 'numba', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_is_a_program() -> None:
    command = [sys.executable, "-m", "cryograd", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (cryograd.__version__, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symetry": "D2"}, "unknown option 'symetry', cryograd.refine, did you mean symmetry?"),
        ({"max-shift": 3.0}, "unknown option 'max-shift', cryograd.refine, did you mean max_shift?"),
        (
            {"qqqqqq": 1},
            "unknown option 'qqqqqq', cryograd.refine, see cryograd refine --help for the options",
        ),
        (
            {"max_shift": -3.0},
            "bad value -3.0, cryograd.refine --max-shift, it should be greater than or equal",
        ),
        ({"solver": "sgdd"}, "unknown solver 'sgdd', cryograd.refine --solver, did you mean 'sgd'?"),
        ({"solver": SGD}, "needs, init, step$"),
        ({"prior": 3}, "no prior 3, cryograd.refine --prior, give a name, or an object with value"),
        ({"samples": 3.0}, "nothing looks at it without --proposal importance, --samples"),
        ({"invert_contrast": True}, "read already, --invert-contrast, give it to read_particles"),
        ({"pixel_size": 3.0}, "read already, --pixel-size, give it to read_particles"),
        ({"callback": 3}, "a function is asked for, and this is of type int, callback, give one"),
        ({"resume": True}, "there is no run to resume, --resume, give the output folder of one"),
    ],
)
def test_wrong_options_are_refused(
    options: dict[str, Any],
    message: str,
    particles: Particles,
    truth: Map,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CryogradError, match=message):
        cryograd.refine(particles, truth, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("function", "nearest"),
    [
        (lambda: cryograd.abinitio("a.star", iteration=4), "cryograd.abinitio, did you mean iterations?"),
        (lambda: cryograd.reconstruct("a.star", start=4), "cryograd.reconstruct, did you mean starts?"),
        (
            lambda: cryograd.simulate("a.pdb", output="b", particle=4),
            "cryograd.simulate, did you mean particles",
        ),
        (lambda: cryograd.select("a.star", excluded="b"), "cryograd.select, did you mean exclude?"),
        (
            lambda: cryograd.compare("a.mrc", "b.mrc", mask_radios=9),
            "cryograd.compare, did you mean mask_radius?",
        ),
    ],
)
def test_every_function_names_the_nearest_option(function: Callable[[], Any], nearest: str) -> None:
    with pytest.raises(CryogradError, match=nearest.replace("?", r"\?")):
        function()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: replace(m, values=m.values[:9]),
            r"a map of shape \(9, 16, 16\) .* is no cube, in-memory.mrc",
        ),
        (lambda m: replace(m, values=m.values[0]), r"a map of shape \(16, 16\) .* is no cube"),
        (lambda m: replace(m, pixel_size=0.0), "a pixel size of 0 Å is no cube"),
        (lambda m: replace(m, values=np.full_like(m.values, np.nan)), "the map has NaN or infinity"),
        (
            lambda m: replace(m, pixel_size=2.0),
            "the map's box is 32.0 Å, the particles' is 192.0 Å, in-memory",
        ),
    ],
)
def test_maps_in_memory_are_checked_as_files_are(
    change: Callable[[Map], Map], message: str, truth: Map, particles: Particles
) -> None:
    with pytest.raises(CryogradError, match=message):
        cryograd.refine(particles, change(truth))


def test_errors_are_passed_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CryogradError("what", "where", "remedy")))
    assert (str(error), error.what, error.where, error.remedy) == (
        "what, where, remedy",
        "what",
        "where",
        "remedy",
    )
