"""The program as a library: the commands as functions, on particles that take seconds."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cryograd
from cryograd import Map, Particles, Result
from cryograd.cli.main import main
from cryograd.data.star import read_star
from cryograd.engine.parts import Moment
from cryograd.objective.priors.gaussian import Gaussian
from cryograd.report import map_images
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.order import Simulated
from cryograd.solvers.sgd import SGD, SGDState
from cryograd.steps.protocol import Local, Move, Stepper, Volume

# Most tests look at one refinement.
pytestmark = pytest.mark.xdist_group("runs of test_library")

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
def folder(truth: Map, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the refinement that most tests look at is written, beside the map that it starts from."""
    folder = tmp_path_factory.mktemp("refined")
    truth.write(folder / "start.mrc")
    return folder / "one"


@pytest.fixture(scope="module")
def heard() -> list[int]:
    """The iteration of every moment that it told of."""
    return []


@pytest.fixture(scope="module")
def refined(particles: Particles, folder: Path, heard: list[int]) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        without_surfaces(patch)
        return cryograd.refine(
            str(particles.source),
            folder.parent / "start.mrc",
            output=folder,
            callback=lambda moment: heard.append(moment.state.iteration),
            **HALVES,
        )


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def without_surfaces(patch: pytest.MonkeyPatch) -> None:
    """Surfaces take seconds of every report."""
    patch.setattr(map_images, "render_surface", lambda *args: np.zeros((4, 4, 4), dtype=np.uint8))


def tree(folder: Path) -> set[str]:
    """Names of all files and folders below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


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
    assert list(dict.fromkeys(stages)) == ["starts", "march", "refine", "poses"]


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
    particles: Particles,
    refined: Result,
    folder: Path,
    heard: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_surfaces(monkeypatch)
    source, start = str(particles.source), folder.parent / "start.mrc"
    assert len(heard) == len(refined.history)
    options = [text for name, value in HALVES.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    main(["refine", source, "--volume", str(start), "-o", str(tmp_path / "two"), *options])
    one, two = folder, tmp_path / "two"
    assert tree(one) == tree(two)
    for name in tree(one):
        if name.endswith((".mrc", ".star", ".xml")):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    records = [(folder / "run.toml").read_text() for folder in (one, two)]
    assert records[0].replace(str(one), str(two)) == records[1]
    # What is returned is what is written.
    written = read_star(one / "particles.star")["particles"]
    np.testing.assert_allclose(
        written[list(POSES)].astype(float), refined.particles[list(POSES)].astype(float), atol=1e-5
    )
    np.testing.assert_array_equal(Map.read(one / "half1.mrc").values, refined.maps["half1"].values)


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


def test_inverted_particles_are_recorded_as_such(particles: Particles, truth: Map, tmp_path: Path) -> None:
    """Or the run would be another one when it is repeated from its record, or resumed."""

    def callback(moment: Moment) -> None:
        raise InterruptedError

    dark = cryograd.read_particles(particles.source, invert_contrast=True)
    with pytest.raises(InterruptedError):
        cryograd.refine(dark, truth, output=tmp_path / "run", callback=callback, force=True, **HALVES)
    assert "invert_contrast = true" in (tmp_path / "run" / "run.toml").read_text()
