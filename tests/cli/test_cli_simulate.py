import errno
import json
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryograd.data.mrc import read_map, write_map
from cryograd.data.read import read_particles
from cryograd.occupied import LOCK
from cryograd.simulation.molecule import SYMMETRY, molecule

from .conftest import ball, tree


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    write_map(tmp_path / "in" / "map.mrc", ball(), 4.0)
    return tmp_path / "in" / "map.mrc"


def test_images_of_a_map_have_its_grid(volume: Path, cryograd_command: Callable, tmp_path: Path) -> None:
    outcome = cryograd_command("simulate", volume, "-o", tmp_path / "out", "--particles", 10, "--json")
    assert json.loads(outcome.out)["n_particles"] == 10
    particles = read_particles(tmp_path / "out/particles.star")
    assert (len(particles), particles.optics[0].box_size) == (10, 16)
    assert particles.optics[0].pixel_size == pytest.approx(4.0)
    assert particles.rotations is not None


def test_options_reach_the_simulation(volume: Path, cryograd_command: Callable, tmp_path: Path) -> None:
    options = ("--defocus-min", 5000, "--defocus-max", 6000, "--voltage", 200, "--box", 20, "--max-shift", 3)
    cryograd_command("simulate", volume, "-o", tmp_path / "out", "--particles", 50, *options)
    particles = read_particles(tmp_path / "out/particles.star")
    mean = 0.5 * (particles.defocus_u + particles.defocus_v)
    assert 5000 <= mean.min() < mean.max() <= 6000
    assert particles.optics[0].wavelength == pytest.approx(0.02508, abs=1e-5)
    assert particles.optics[0].box_size == 20
    assert particles.shifts is not None
    assert np.linalg.norm(particles.shifts, axis=1).max() <= 3.0


def test_a_symmetric_truth_is_symmetric(volume: Path, cryograd_command: Callable, tmp_path: Path) -> None:
    cryograd_command("simulate", volume, "-o", tmp_path / "out", "--particles", 4, "--symmetry", "C2")
    truth = read_map(tmp_path / "out/truth.mrc")[0]
    turned = truth[1:, 1:, 1:][:, ::-1, ::-1]
    assert np.corrcoef(truth[1:, 1:, 1:].ravel(), turned.ravel())[0, 1] > 0.999


def test_what_is_there_is_not_overwritten(volume: Path, refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/particles.star").write_text("mine")
    assert "already holds particles.star" in refused("simulate", volume, "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == {"particles.star"}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["absent.pdb"], "the model does not exist, absent.pdb"),
        (["MAP", "--defocus-min", 20000, "--defocus-max", 10000], "exceeds the largest"),
        (["MAP", "--snr", 0], "cryograd simulate --snr"),
        (["NOTES"], "no atoms"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[object], what: str, volume: Path, refused: Callable, tmp_path: Path
) -> None:
    notes = tmp_path / "in" / "notes.pdb"
    notes.write_text("nothing\n")
    given = [{"MAP": volume, "NOTES": notes}.get(str(a), a) for a in arguments]
    assert what in refused("simulate", *given, "-o", tmp_path / "out")
    assert tree(tmp_path) == {"in", "in/map.mrc", "in/notes.pdb"}


def test_the_demonstrations_molecule_is_symmetric_and_chiral() -> None:
    density = molecule(40, 5.0)
    assert np.corrcoef(density[1:, 1:, 1:].ravel(), density[1:, :0:-1, :0:-1].ravel())[0, 1] > 0.999
    assert SYMMETRY == "D2"
    mirrored = density[1:, 1:, :0:-1]
    assert np.corrcoef(density[1:, 1:, 1:].ravel(), mirrored.ravel())[0, 1] < 0.8
    assert density[0].max() < 1e-3


def test_groups_views_and_precision_reach_the_files(
    volume: Path, cryograd_command: Callable, tmp_path: Path
) -> None:
    options = ("--optics-groups", 2, "--views", "biased", "--phase-shift", 90, "--float16")
    cryograd_command("simulate", volume, "-o", tmp_path / "out", "--particles", 60, *options)
    particles = read_particles(tmp_path / "out/particles.star")
    assert len(particles.optics) == 2
    assert (tmp_path / "out/particles_1.mrcs").stat().st_size == 1024 + 30 * 16 * 16 * 2
    assert 0.0 <= particles.phase_shift.min() < particles.phase_shift.max() <= np.pi / 2
    assert particles.rotations is not None
    # Three views and their surroundings hold four fifths of the particles.
    cosines = particles.rotations[:, 2] @ np.mean(particles.rotations[:, 2], axis=0)
    assert cosines.mean() > 0.15


def test_a_simulation_that_was_killed_is_begun_anew(
    volume: Path, cryograd_command: Callable, refused: Callable, tmp_path: Path
) -> None:
    command = ("simulate", volume, "-o", tmp_path / "out", "--particles", 4)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/particles.mrcs").write_text("half")
    assert "already holds particles.mrcs" in refused(*command)
    (tmp_path / "out" / LOCK).write_text("process 1 on nowhere")
    assert cryograd_command(*command).status == 0
    assert tree(tmp_path / "out") == {"particles.star", "particles.mrcs", "truth.mrc"}


def test_a_simulation_that_finds_no_room_leaves_nothing(
    volume: Path,
    cryograd_command: Callable,
    refused: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("cryograd.simulation.simulate.write_map", full)
        message = refused("simulate", volume, "-o", tmp_path / "out", "--particles", 4)
    assert "No space left on device" in message
    assert tree(tmp_path / "out") == set()
    assert cryograd_command("simulate", volume, "-o", tmp_path / "out", "--particles", 4).status == 0


def test_a_half_is_the_same_as_in_the_whole(volume: Path, cryograd_command: Callable, tmp_path: Path) -> None:
    for name, options in (("all", ()), ("half", ("--half", 2))):
        cryograd_command("simulate", volume, "-o", tmp_path / name, "--particles", 20, *options)
    whole, half = (read_particles(tmp_path / name / "particles.star") for name in ("all", "half"))
    assert whole.half_set is not None
    members = np.flatnonzero(whole.half_set == 2)
    assert len(half) == len(members) == 10
    assert np.array_equal(half.images(range(10)), whole.images(members))
    assert half.defocus_u == pytest.approx(whole.defocus_u[members])


def test_a_subunit_must_exist(volume: Path, refused: Callable, tmp_path: Path) -> None:
    model = tmp_path / "in" / "model.pdb"
    model.write_text("END\n")
    arguments = ("simulate", model, "-o", tmp_path / "out", "--subunit", tmp_path / "absent.pdb")
    assert "the subunit does not exist" in refused(*arguments)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--optics-groups", 9, "--particles", 5], "5 particles cannot fill 9 optics groups"),
        (["--model-b-factor", 100], "a map is not blurred"),
        (["--particle-diameter", 0.1], "a diameter of 0.1 Å does not fit a box of 64 Å"),
        (["--particle-diameter", 65], "a diameter of 65 Å does not fit a box of 64 Å"),
        (["--float16", "--snr", 1e12], "the images' values are beyond the range of float16"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    volume: Path, refused: Callable, tmp_path: Path, options: list[object], what: str
) -> None:
    assert refused("simulate", volume, "-o", tmp_path / "out", *options).startswith(what)


def test_a_map_of_nothing_is_refused(refused: Callable, tmp_path: Path) -> None:
    write_map(tmp_path / "empty.mrc", np.zeros((16, 16, 16)), 4.0)
    message = refused("simulate", tmp_path / "empty.mrc", "-o", tmp_path / "out")
    assert message.startswith("the map is the same everywhere")
    assert not (tmp_path / "out").exists()


def test_a_map_without_a_voxel_size_takes_the_one_given(
    refused: Callable, cryograd_command: Callable, tmp_path: Path
) -> None:
    with mrcfile.new(tmp_path / "plain.mrc") as mrc:
        mrc.set_data(ball())
    arguments = ("simulate", tmp_path / "plain.mrc", "-o", tmp_path / "out", "--particles", 3)
    assert "no voxel size" in refused(*arguments)
    assert cryograd_command(*arguments, "--pixel-size", 5).status == 0
    assert read_map(tmp_path / "out/truth.mrc")[1] == pytest.approx(5.0)
