"""Refinement and reconstruction from the command line, on small simulated images."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryograd.cli.main import main
from cryograd.data.mrc import read_map, write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.read import read_particles
from cryograd.data.star import read_star
from cryograd.engine.state import State
from cryograd.output import checkpoint
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.validation.fsc import resolution_at, soft_sphere
from cryograd.validation.gold_standard import GoldStandard

from .conftest import FILES, tree

# Two runs that are made once are what most tests look at.
pytestmark = pytest.mark.xdist_group("runs of test_cli_refine")

BOX, PIXEL, N = 32, 6.0, 160


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    group = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    simulate(molecule(BOX, PIXEL), PIXEL, Simulation(N, (group,), snr=0.4, seed=5), folder)
    write_map(folder / "start.mrc", molecule(BOX, PIXEL), PIXEL)
    return folder


def command(small: Path, output: Path) -> list[str]:
    """The command line of the refinement that the tests look at."""
    given = ("--volume", small / "start.mrc", "--symmetry", SYMMETRY, "--max-shift", 12, "--passes", 1)
    given += ("--minibatch", 20, "--threads", 1, "--top-poses", 4, "--json")
    return [str(a) for a in ("refine", small / "particles.star", "-o", output, *given)]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last poses are found in several iterations, between which a run can be interrupted."""
    monkeypatch.setattr("cryograd.engine.setup.CHUNK", 30 / BOX)


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a finished refinement, which no test changes, and what it said on standard output."""
    folder, said = tmp_path_factory.mktemp("finished") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr("cryograd.engine.setup.CHUNK", 30 / BOX)
        main(command(small, folder))
    return folder, said.getvalue()


@pytest.fixture
def copied(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished run, to go on with."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture(scope="module")
def again(small: Path, finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short refinement with another seed of what the first one wrote, in a mask of half its pixels."""
    folder = tmp_path_factory.mktemp("again")
    write_map(folder / "mask.mrc", soft_sphere(BOX // 2, 6.0, 2.0).astype(np.float32), 2 * PIXEL)
    given = ("--volume", small / "start.mrc", "--symmetry", SYMMETRY, "--passes", 0.5, "--threads", 1)
    given += ("--max-resolution", 20, "--seed", 9, "--mask", folder / "mask.mrc")
    main([str(a) for a in ("refine", finished[0] / "particles.star", "-o", folder / "run", *given)])
    return folder / "run"


def test_a_refinement_leaves_all_its_files(finished: tuple[Path, str]) -> None:
    folder, said = finished
    assert tree(folder) == FILES | {"poses.star"}
    metrics = json.loads(said)
    assert 12.0 <= metrics["resolution_fsc143_angstrom"] < 20.0
    assert metrics["command"] == "refine"
    assert set(metrics["stage_seconds"]) == {"refine", "poses"}
    half1, half2, mean = (read_map(folder / f"{name}.mrc")[0] for name in ("half1", "half2", "volume"))
    assert half1.shape == half2.shape == mean.shape == (BOX, BOX, BOX)
    assert not np.array_equal(half1, half2)
    written = read_particles(folder / "particles.star")
    assert len(written) == N
    assert written.half_set is not None
    assert np.bincount(written.half_set).tolist() == [0, N // 2, N // 2]
    for name in ("rlnLogLikeliContribution", "cryogradPoseEntropy", "cryogradEffectiveSampleSize"):
        assert np.isfinite(written.table[name].to_numpy(dtype=float)).all()
    poses = read_star(folder / "poses.star")["poses"]
    assert poses["cryogradPoseRank"].to_numpy().max() == 4
    _, particle = np.unique(poses["rlnImageName"].to_numpy(dtype=str), return_inverse=True)
    total = np.bincount(particle, poses["cryogradPoseProbability"].to_numpy(dtype=float))
    assert len(total) == N
    assert total.max() <= 1.0 + 1e-4
    shared = metrics["shared"]
    assert shared["start_map"] == "given"
    assert shared["start_resolution_angstrom"] == pytest.approx(40.0)
    # Four minibatches of each half, shells up to Nyquist.
    assert (shared["curves"], shared["shells"]) == (4, BOX // 2 + 1)
    html = (folder / "report.html").read_text()
    assert "Half maps" in html
    assert "What the half-sets share" in html
    assert "the given one, up to 40.0 Å (4.8 Fourier pixels, with an edge of two); each half" in html
    assert "a sphere of 173 Å, with a soft edge" in html
    assert "4 curves, one an iteration, of 17 shells" in html


def test_half_sets_that_were_written_are_used_again(finished: tuple[Path, str], again: Path) -> None:
    one, two = (read_particles(folder / "particles.star") for folder in (finished[0], again))
    assert one.half_set is not None
    assert two.half_set is not None
    assert np.array_equal(one.half_set, two.half_set)


def test_a_mask_may_have_another_sampling(again: Path) -> None:
    """The molecule fills a sphere of 60 Å; the mask has half the particles' pixels over the same box."""
    used, pixel = read_map(again / "mask.mrc")
    assert (len(used), pixel) == (BOX, pytest.approx(PIXEL))
    assert used[BOX // 2, BOX // 2, BOX // 2] > 0.95
    assert used[0].max() < 0.05


@pytest.mark.usefixtures("small_pieces")
def test_files_of_a_mask_that_is_too_tight_hold_the_correlation_without_it(
    cryograd_command: Callable, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed at its end writes its files again."""
    assert "Half maps, without a mask" not in (copied / "fsc.xml").read_text()
    (copied / "metrics.json").unlink()
    monkeypatch.setattr(GoldStandard, "mask_too_tight", True)
    outcome = cryograd_command("refine", "-o", copied, "--resume", "--json")
    assert outcome.status == 0, outcome.err
    assert "Half maps, without a mask" in (copied / "fsc.xml").read_text()
    tables = read_star(copied / "fsc.star")
    shells = tables["fsc"]
    unmasked = shells["rlnFourierShellCorrelationUnmaskedMaps"].to_numpy(dtype=float)
    written = shells["rlnFourierShellCorrelationCorrected"].to_numpy(dtype=float)
    assert np.array_equal(written, unmasked)
    final = float(tables["general"]["rlnFinalResolution"].iloc[0])
    assert final == pytest.approx(resolution_at(written, 0.143, BOX, PIXEL), abs=1e-3)
    assert final == pytest.approx(json.loads(outcome.out)["resolution_fsc143_angstrom"], abs=1e-3)


@pytest.mark.usefixtures("small_pieces")
def test_a_checkpoint_that_cannot_be_restored_costs_nothing(
    cryograd_command: Callable, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "metrics.json").unlink()
    before = tree(copied)

    def broken(saved: dict, device: object) -> State:
        raise KeyboardInterrupt

    monkeypatch.setattr(State, "from_state_dict", broken)
    assert cryograd_command("refine", "-o", copied, "--resume").status == 130
    assert tree(copied) == before


@pytest.mark.usefixtures("small_pieces")
def test_a_refinement_that_is_interrupted_twice_ends_as_one_that_was_not(
    cryograd_command: Callable,
    small: Path,
    finished: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the map is changed, and while the last poses are found."""
    kept: list[str] = []
    save = checkpoint.save

    def stop(path: Path, made: checkpoint.Checkpoint) -> None:
        save(path, made)
        kept.append(made.moment["state"]["stage"])
        if len(kept) in (3, 7):
            raise KeyboardInterrupt

    every = ("--checkpoint-seconds", 0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        assert cryograd_command(*command(small, tmp_path / "run"), *every).status == 130
        assert kept == ["refine"] * 3
        assert cryograd_command("refine", "-o", tmp_path / "run", "--resume", *every).status == 130
        assert kept[3:] == ["refine"] * 1 + ["poses"] * 3
    assert cryograd_command("refine", "-o", tmp_path / "run", "--resume").status == 0
    for name in ("half1.mrc", "half2.mrc", "particles.star", "fsc.star"):
        assert (tmp_path / "run" / name).read_bytes() == (finished[0] / name).read_bytes(), name


@pytest.mark.slow
def test_half_sets_may_have_random_starts_of_their_own(
    cryograd_command: Callable, small: Path, tmp_path: Path
) -> None:
    given = ("--symmetry", SYMMETRY, "--max-shift", 12, "--passes", 2, "--minibatch", 20, "--json")
    given += ("--starts", 2, "--max-resolution", 16, "--independent-halves")
    outcome = cryograd_command("reconstruct", small / "particles.star", "-o", tmp_path / "run", *given)
    assert outcome.status == 0, outcome.err
    metrics = json.loads(outcome.out)
    assert metrics["resolution_fsc143_angstrom"] < 20.0
    assert metrics["shared"]["start_map"] == "own"
    assert tree(tmp_path / "run") == FILES
    truth = json.loads(
        cryograd_command("compare", tmp_path / "run/volume.mrc", small / "truth.mrc", "--json").out
    )
    assert truth["resolution_fsc05_angstrom"] < 22.0


def test_poses_are_not_invented(small: Path, tmp_path: Path, refused: Callable) -> None:
    star = (small / "particles.star").read_text()
    kept = [name for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi") if name in star]
    assert kept
    bare = small / "bare.star"
    bare.write_text(star.replace("rlnAngle", "cryogradWas").replace("rlnOrigin", "cryogradHad"))
    message = refused(
        "refine", bare, "--volume", small / "start.mrc", "-o", tmp_path / "run", "--local", "--threads", 1
    )
    assert "no poses" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "users"),
    [(("--local-angle", 3), "--local"), (("--samples", 20), "--proposal importance")],
    ids=["angle", "samples"],
)
def test_options_that_nothing_looks_at_are_refused(
    small: Path, tmp_path: Path, refused: Callable, options: tuple[str, int], users: str
) -> None:
    message = refused(
        "refine", small / "particles.star", "--volume", small / "start.mrc", "-o", tmp_path / "run", *options
    )
    assert options[0] in message
    assert users in message
    assert not (tmp_path / "run").exists()
