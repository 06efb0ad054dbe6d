"""The program as a library: the commands as functions, on particles that take seconds."""

import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cryograd
from cryograd import CryogradError, Map, Particles, Result
from cryograd.cli.main import main
from cryograd.data.star import read_star
from cryograd.engine.parts import Moment
from cryograd.objective.priors.gaussian import Gaussian
from cryograd.report import map_images
from cryograd.results import ClassResult
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.order import Simulated
from cryograd.solvers.sgd import SGD, SGDState
from cryograd.steps.protocol import Local, Move, Stepper, Volume
from cryograd.validation.comparison import Comparison

BOX, PIXEL, N = 16, 12.0, 48
START: dict[str, Any] = {"symmetry": SYMMETRY, "max_shift": 12.0, "iterations": 4, "starts": 2, "threads": 1}
HALVES: dict[str, Any] = {
    "symmetry": SYMMETRY,
    "max_shift": 12.0,
    "passes": 1.0,
    "minibatch": 12,
    "threads": 1,
}
POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
POSTERIOR = (
    "rlnMaxValueProbDistribution",
    "rlnLogLikeliContribution",
    "cryogradPoseEntropy",
    "cryogradEffectiveSampleSize",
)
HALF_SET = ("rlnRandomSubset", "cryogradScale", "cryogradJunkProbability")
MAPS = {"volume", "mask", "half1", "half2", "volume_sharpened", "local_resolution", "standard_error"}


@pytest.fixture(scope="module")
def truth() -> Map:
    return Map(molecule(BOX, PIXEL), PIXEL)


@pytest.fixture(scope="module")
def simulated(truth: Map, tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    folder = tmp_path_factory.mktemp("library") / "simulated"
    return cryograd.simulate(truth, output=folder, particles=N, symmetry=SYMMETRY, snr=0.6, seed=3)


@pytest.fixture(scope="module")
def particles(simulated: Simulated) -> Particles:
    return cryograd.read_particles(simulated.particles.source)


@pytest.fixture(scope="module")
def refined(particles: Particles, truth: Map) -> Result:
    return cryograd.refine(particles, truth, **HALVES)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def flat_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without surfaces, which take seconds."""
    monkeypatch.setattr(map_images, "render_surface", lambda *args: np.zeros((4, 4, 4), dtype=np.uint8))


def tree(folder: Path) -> set[str]:
    """Names of all files and folders below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


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


@pytest.mark.parametrize("record", [ClassResult, Comparison, Moment, Simulated])
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


def test_simulated_particles_come_with_the_truth(simulated: Simulated, truth: Map) -> None:
    assert len(simulated.particles) == N
    assert simulated.particles.rotations is not None
    assert simulated.particles.rotations.shape == (N, 3, 3)
    assert simulated.truth.pixel_size == PIXEL
    # It is averaged over the point group.
    assert np.corrcoef(simulated.truth.values.ravel(), truth.values.ravel())[0, 1] > 0.9
    assert tree(simulated.particles.source.parent) == {"particles.star", "particles.mrcs", "truth.mrc"}


def test_particles_are_read_with_their_poses(particles: Particles, simulated: Simulated) -> None:
    assert len(particles) == N
    assert particles.extent == BOX * PIXEL
    np.testing.assert_allclose(particles.rotations, simulated.particles.rotations, atol=1e-5)
    some = particles.select([3, 1])
    np.testing.assert_array_equal(some.images([0]), particles.images([3]))
    dark = cryograd.read_particles(particles.source, invert_contrast=True)
    np.testing.assert_array_equal(dark.images([3]), -particles.images([3]))


def test_maps_are_files_and_back(truth: Map, tmp_path: Path) -> None:
    truth.write(tmp_path / "map.mrc")
    again = Map.read(str(tmp_path / "map.mrc"))
    np.testing.assert_array_equal(again.values, truth.values)
    assert (again.pixel_size, again.extent, again.source) == (PIXEL, 192.0, tmp_path / "map.mrc")


def test_a_random_start_gives_maps_and_particles(particles: Particles, empty: Path) -> None:
    result = cryograd.abinitio(particles, classes=2, **(START | {"starts": None}))
    assert result.command == "abinitio"
    assert len(result.classes) == 2
    assert {single.volume.values.shape for single in result.classes} == {(BOX, BOX, BOX)}
    assert sum(single.share for single in result.classes) == pytest.approx(1.0)
    assert result.volume is result.classes[result.best].volume
    assert set(result.maps) == {"volume", "mask"}
    # There are no half-sets that could say it.
    assert result.resolution is None
    assert result.curves == {}
    columns = {"rlnClassNumber", "cryogradClassProbability1", "cryogradClassProbability2"}
    assert {*POSES, *POSTERIOR, *columns} <= set(result.particles.columns)
    assert not {"cryogradScale", "cryogradJunkProbability"} & set(result.particles.columns)
    assert result.metrics["class_populations"] == pytest.approx(
        [result.particles[f"cryogradClassProbability{k}"].mean() for k in (1, 2)]
    )
    # Nothing is written without a folder.
    assert tree(empty) == set()


def test_a_reconstruction_goes_from_a_random_start_to_half_maps(particles: Particles, empty: Path) -> None:
    moments: list[tuple[int, int, str, int]] = []

    def callback(moment: Moment) -> None:
        moments.append((moment.part, moment.parts, moment.state.stage, len(moment.history)))

    options = HALVES | {"starts": 1, "start_resolution": 60.0, "max_resolution": 27.0}
    result = cryograd.reconstruct(str(particles.source), callback=callback, **options)
    assert result.resolution is not None
    assert set(result.maps) == MAPS
    assert tree(empty) == set()
    parts, of, stages, rows = zip(*moments, strict=True)
    # Once after every iteration, of the random start and then of the half-sets.
    assert rows == tuple(range(1, len(result.history) + 1))
    assert set(parts) == {0, 1}
    assert sorted(parts) == list(parts)
    assert set(of) == {2}
    assert list(dict.fromkeys(stages)) == ["starts", "march", "settle", "refine", "poses"]


def test_a_refinement_has_maps_curves_and_particles(refined: Result, particles: Particles) -> None:
    assert refined.command == "refine"
    assert refined.resolution == refined.metrics["resolution_fsc143_angstrom"]
    assert 2.0 * PIXEL <= refined.resolution < 40.0  # type: ignore[operator]
    assert set(refined.maps) == MAPS
    assert {single.values.shape for single in refined.maps.values()} == {(BOX, BOX, BOX)}
    assert {single.pixel_size for single in refined.maps.values()} == {PIXEL}
    assert not np.array_equal(refined.maps["half1"].values, refined.maps["half2"].values)
    assert set(refined.curves) == {"frequency", "fsc", "unmasked", "masked", "randomised"}
    np.testing.assert_allclose(refined.curves["frequency"], np.arange(BOX // 2 + 1) / particles.extent)
    assert {len(curve) for curve in refined.curves.values()} == {BOX // 2 + 1}
    assert refined.curves["fsc"][1] > 0.9
    assert len(refined.history) == refined.metrics["iterations"]
    assert refined.top_poses is None
    json.dumps([refined.metrics, refined.history], allow_nan=False)


def test_particles_of_a_result_are_a_table_in_relion_s_units(refined: Result, particles: Particles) -> None:
    table = refined.particles
    assert isinstance(table, pd.DataFrame)
    assert {*POSES, *POSTERIOR, *HALF_SET} <= set(table.columns)
    # All columns of the input stay.
    assert set(particles.table.columns) <= set(table.columns)
    assert len(table) == N
    numbers = table["rlnImageName"].str.partition("@")[0]
    assert numbers.tolist() == particles.table["rlnImageName"].str.partition("@")[0].tolist()
    assert np.bincount(table["rlnRandomSubset"]).tolist()[1:] == [N // 2, N // 2]
    np.testing.assert_allclose(table[["rlnOriginXAngst", "rlnOriginYAngst"]], refined.shifts, atol=1e-6)
    assert table["rlnMaxValueProbDistribution"].between(0.0, 1.0).all()
    assert table["rlnAngleRot"].abs().max() > np.pi


def test_one_map_for_each_class_is_refined_in_halves(particles: Particles, truth: Map, empty: Path) -> None:
    other = Map(np.ascontiguousarray(truth.values[:, :, ::-1]), PIXEL)
    options = HALVES | {"classes": 2, "symmetry": "D2,C1", "fixed_poses": True}
    result = cryograd.refine(particles, [truth, other], **options)
    assert [single.symmetry for single in result.classes] == ["D2", "C1"]
    assert all(single.halves is not None for single in result.classes)
    members = np.array([single.members for single in result.classes])
    assert (members.sum(axis=0) == 1).all()
    assert result.best == int(members.sum(axis=1).argmax())
    # Images are of the first map, at these poses.
    assert members[0].mean() > 0.8
    assert tree(empty) == set()


def test_a_folder_gets_the_files_of_the_command(
    particles: Particles, truth: Map, tmp_path: Path, flat_reports: None
) -> None:
    truth.write(tmp_path / "start.mrc")
    source, start = str(particles.source), tmp_path / "start.mrc"
    calls: list[int] = []
    result = cryograd.refine(
        particles, start, output=tmp_path / "one", callback=lambda moment: calls.append(1), **HALVES
    )
    assert len(calls) == len(result.history)
    options = [text for name, value in HALVES.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    main(["refine", source, "--volume", str(start), "-o", str(tmp_path / "two"), *options])
    one, two = tmp_path / "one", tmp_path / "two"
    assert tree(one) == tree(two)
    for name in tree(one):
        if name.endswith((".mrc", ".star", ".xml")):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    records = [(folder / "run.toml").read_text() for folder in (one, two)]
    assert records[0].replace(str(one), str(two)) == records[1]
    # What is returned is what is written.
    written = read_star(one / "particles.star")["particles"]
    np.testing.assert_allclose(
        written[list(POSES)].astype(float), result.particles[list(POSES)].astype(float), atol=1e-5
    )
    np.testing.assert_array_equal(Map.read(one / "half1.mrc").values, result.maps["half1"].values)


def test_maps_are_compared_in_memory_and_from_files(truth: Map, refined: Result, tmp_path: Path) -> None:
    # Density of any real type is taken.
    double = replace(refined.volume, values=refined.volume.values.astype(np.float64))
    found = cryograd.compare(truth, double)
    assert found.figures["kind"] == "maps"
    assert found.figures["correlation"] > 0.8
    assert found.aligned is not None
    assert found.aligned.values.shape == (BOX, BOX, BOX)
    truth.write(tmp_path / "a.mrc")
    refined.volume.write(tmp_path / "b.mrc")
    files = str(tmp_path / "a.mrc"), tmp_path / "b.mrc"
    again = cryograd.compare(*files, output=tmp_path / "aligned.mrc")
    assert again.figures["correlation"] == pytest.approx(found.figures["correlation"], abs=1e-6)
    assert again.aligned is not None
    np.testing.assert_array_equal(Map.read(tmp_path / "aligned.mrc").values, again.aligned.values)


def test_poses_of_particle_files_are_compared(particles: Particles) -> None:
    found = cryograd.compare(particles.source, str(particles.source), symmetry=SYMMETRY)
    assert found.aligned is None
    assert found.figures["kind"] == "poses"
    assert found.figures["n_particles"] == N
    assert found.figures["median_angle_degrees"] == pytest.approx(0.0, abs=0.1)


@dataclass(frozen=True)
class Still(Stepper):
    """A solver of someone else's, which takes notes and does not move."""

    notes: list[int]

    def init(self, volume: Volume) -> SGDState:
        return SGD().init(volume)

    def step(self, state: SGDState, volume: Volume, local: Local) -> Move:
        self.notes.append(local.iteration)
        return Move(volume, state, 0.0)


def test_solvers_and_priors_may_be_objects(particles: Particles, truth: Map) -> None:
    still = Still([])
    cryograd.refine(particles, truth, solver=still, prior=Gaussian(scale=1.0, weight=0.5), **HALVES)
    # Two halves take a step in each iteration.
    assert still.notes == sorted(still.notes)
    assert still.notes.count(0) == 2
    notes = Still([])
    heavy = cryograd.abinitio(particles, solver=SGD(momentum=0.95), prior=Gaussian(1.0, 0.1), **START)
    cryograd.abinitio(particles, solver=notes, **START)
    light = cryograd.abinitio(particles, solver="sgd", prior="gaussian", **START)
    assert max(notes.notes) == 3
    assert not np.array_equal(heavy.volume.values, light.volume.values)


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
        ({"resume": True}, "there is no run to resume, --resume, give the output folder of one"),
    ],
)
def test_wrong_options_are_refused(
    options: dict[str, Any], message: str, particles: Particles, truth: Map, empty: Path
) -> None:
    with pytest.raises(CryogradError, match=message):
        cryograd.refine(particles, truth, **options)
    assert tree(empty) == set()


@pytest.mark.parametrize(
    ("function", "nearest"),
    [
        (lambda: cryograd.abinitio("a.star", iteration=4), "cryograd.abinitio, did you mean iterations?"),
        (lambda: cryograd.reconstruct("a.star", start=4), "cryograd.reconstruct, did you mean starts?"),
        (
            lambda: cryograd.simulate("a.pdb", output="b", particle=4),
            "cryograd.simulate, did you mean particles",
        ),
        (lambda: cryograd.compare("a.mrc", "b.mrc", flip=True), "cryograd.compare, did you mean flip_hand?"),
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


def test_inverted_particles_are_recorded_as_such(particles: Particles, truth: Map, tmp_path: Path) -> None:
    """Or the run would be another one when it is repeated from its record, or resumed."""

    def callback(moment: Moment) -> None:
        raise InterruptedError

    dark = cryograd.read_particles(particles.source, invert_contrast=True)
    with pytest.raises(InterruptedError):
        cryograd.refine(dark, truth, output=tmp_path / "run", callback=callback, **HALVES)
    assert "invert_contrast = true" in (tmp_path / "run" / "run.toml").read_text()


def test_errors_are_passed_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CryogradError("what", "where", "remedy")))
    assert (str(error), error.what, error.where, error.remedy) == (
        "what, where, remedy",
        "what",
        "where",
        "remedy",
    )
