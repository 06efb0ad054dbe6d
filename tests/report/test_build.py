import base64
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryograd.config import Abinitio, to_toml
from cryograd.data.mrc import read_map, write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.star import write_particles_star, write_star
from cryograd.errors import CryogradError
from cryograd.report import map_images
from cryograd.report.build import build_report
from cryograd.report.half_maps import _CURVES, load_half_maps
from cryograd.report.load import load_run
from cryograd.report.plots import view_density
from cryograd.report.remarks import remarks
from cryograd.report.surface import render_surface
from cryograd.rotations import random_rotations
from cryograd.simulation.simulate import Simulation, simulate

# Most tests look at one run, and at its report.
pytestmark = pytest.mark.xdist_group("runs of test_build")

N, BOX = 30, 16


METRICS = {"n_particles": N, "wall_seconds": 61.0, "device": "cpu"}


def log_row(iteration: int, **changes: object) -> dict:
    row = {
        "iteration": iteration,
        "stage": "march",
        "resolution": 40.0 - iteration,
        "radius": 3.0,
        "log_evidence": -10.0 + iteration,
        "entropy": 1.0,
        "step": 0.1,
        "noise": 1.0,
        "seconds": {"score": 0.5, "step": 0.1},
    }
    return {**row, **changes}


@pytest.fixture(autouse=True, scope="module")
def small_surfaces() -> Iterator[None]:
    """Surfaces are drawn small, which is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_images, "render_surface", partial(render_surface, pixels=40))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made up, which no test changes."""
    rng, parent = np.random.default_rng(1), tmp_path_factory.mktemp("runs")
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - float(BOX // 2)
    density = np.exp(-0.5 * (x**2 + y**2 + z**2) / 4.0).astype(np.float32)
    optics = Optics("group", electron_wavelength(300.0), 2.7e7, 0.1, 4.0, BOX)
    particles = simulate(density, 4.0, Simulation(N, (optics,)), parent / "in")
    folder = parent / "run <1>"
    config = Abinitio(particles=parent / "in/particles.star", output=folder, max_shift=20.0)
    folder.mkdir()
    (folder / "run.toml").write_text(f"# cryograd 1.0 abinitio\n\n{to_toml(config)}")
    (folder / "log.jsonl").write_text("".join(json.dumps(log_row(i)) + "\n" for i in range(1, 8)))
    write_map(folder / "volume.mrc", density, 4.0)
    columns = {"cryogradPoseEntropy": rng.uniform(size=N), "rlnMaxValueProbDistribution": rng.uniform(size=N)}
    rotations, shifts = random_rotations(N, rng), rng.normal(0.0, 3.0, (N, 2))
    write_particles_star(folder / "particles.star", particles, rotations, shifts, columns)
    metrics = METRICS | {"command": "abinitio", "nothing": None}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the finished run."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("reported") / finished.name)
    return build_report(Path(folder)).read_text()


def test_the_report_holds_all_sections(page: str) -> None:
    for heading in ("Map", "Convergence", "Poses", "Time", "Record"):
        assert f"<h2>{heading}</h2>" in page
    # Three surfaces, slices and projections.
    assert page.count("data:image/png;base64,") >= 9
    assert page.count("<svg") == 5


def test_the_report_works_offline(page: str) -> None:
    addresses = re.findall(r'(?:src|href|xlink:href)="([^"#][^"]{0,11})', page)
    assert addresses
    assert all(address.startswith("data:image/p") for address in addresses)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(http" not in page


def test_the_pictures_are_pngs(page: str) -> None:
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert pictures
    for encoded in pictures:
        assert base64.b64decode(encoded).startswith(b"\x89PNG")


def test_names_are_escaped(page: str) -> None:
    assert "<1>" not in page
    assert "run &lt;1&gt;" in page


def test_the_same_run_gives_the_same_bytes(run_folder: Path, page: str) -> None:
    assert build_report(run_folder).read_bytes() == page.encode()


def test_identifiers_of_the_plots_do_not_collide(page: str) -> None:
    clips = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(clips) == len(set(clips))


def test_an_unfinished_run_is_reported_as_such(run_folder: Path) -> None:
    (run_folder / "metrics.json").unlink()
    (run_folder / "particles.star").unlink()
    page = build_report(run_folder).read_text()
    assert "The run is not finished" in page
    assert "<h2>Poses</h2>" not in page
    assert "<h2>Convergence</h2>" in page


def test_what_half_sets_resolve_is_not_called_what_images_are_used_to(run_folder: Path, page: str) -> None:
    assert "resolution used" in page
    with (run_folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(log_row(8, stage="refine", resolution=11.7, correlation=[1.0])) + "\n")
    page = build_report(run_folder).read_text()
    assert "resolution used" not in page
    assert "<dt>resolution of the poses&#39; map</dt><dd>11.7 Å</dd>" in page


def test_a_reconstruction_that_has_only_a_start_is_reported(run_folder: Path) -> None:
    for name in ("metrics.json", "particles.star"):
        (run_folder / name).unlink()
    record = run_folder / "run.toml"
    record.write_text(record.read_text().replace("abinitio", "reconstruct", 1))
    run = load_run(run_folder)
    assert run.volume.max() > 0.0
    assert any("cryograd reconstruct -o" in remark for remark in remarks(run))


def test_a_known_truth_is_shown(run_folder: Path) -> None:
    comparison = {
        "maps": {"frequencies": [0.0, 0.05, 0.1], "fsc": [1.0, 0.9, 0.2], "resolution_fsc05_angstrom": 13.25},
        "poses": {"median_angle_degrees": 2.5, "median_shift_angstrom": 1.5},
    }
    (run_folder / "comparison.json").write_text(json.dumps(comparison))
    write_map(run_folder / "truth.mrc", load_run(run_folder).volume, 4.0)
    page = build_report(run_folder).read_text()
    assert "<h2>Truth</h2>" in page
    assert "13.2 Å" in page
    assert "2.5°" in page


def test_all_classes_are_shown_with_their_populations(run_folder: Path) -> None:
    settings = (run_folder / "run.toml").read_text()
    (run_folder / "run.toml").write_text(settings.replace("\nclasses = 1\n", "\nclasses = 2\n"))
    for number in (1, 2):
        (run_folder / f"class{number}").mkdir()
        write_map(run_folder / f"class{number}/volume.mrc", read_map(run_folder / "volume.mrc")[0], 4.0)
    assert "Class 2" in build_report(run_folder).read_text()
    metrics = json.loads((run_folder / "metrics.json").read_text())
    (run_folder / "metrics.json").write_text(json.dumps(metrics | {"class_populations": [0.25, 0.75]}))
    page = build_report(run_folder).read_text()
    assert "Class 1, 25.0 % of the particles" in page
    assert "Class 2, 75.0 % of the particles" in page
    # Three surfaces, slices and projections, and the surfaces of both classes.
    assert page.count("data:image/png;base64,") >= 15


@pytest.mark.parametrize("missing", ["run.toml", "log.jsonl", "volume.mrc"])
def test_a_folder_without_a_run_is_refused(run_folder: Path, missing: str) -> None:
    (run_folder / missing).unlink()
    with pytest.raises(CryogradError, match=missing):
        build_report(run_folder)
    assert not (run_folder / "report.html").exists()


@pytest.mark.parametrize("broken", ["run.toml", "log.jsonl", "metrics.json"])
def test_a_broken_file_is_named(run_folder: Path, broken: str) -> None:
    (run_folder / broken).write_text("{")
    with pytest.raises(CryogradError) as error:
        build_report(run_folder)
    assert error.value.where == str(run_folder / broken)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", "# cryograd 1.0 abinitio\n"),
        ("run.toml", '# cryograd 1.0 abinitio\nparticles = "a.star"\nclasses = -3\n'),
        ("run.toml", '# cryograd 1.0 abinitio\nparticles = "a.star"\nsymmetry = "Q3"\n'),
        ("run.toml", 'particles = "a.star"\n'),
        ("run.toml", "# cryograd 1.0 abinitio\na = " + "[" * 9999),
        ("log.jsonl", '{"stage": "march"}\n'),
        ("log.jsonl", json.dumps(log_row(1, resolution="fine")) + "\n"),
        ("log.jsonl", json.dumps(log_row(1, radius=1e9)) + "\n"),
        ("log.jsonl", json.dumps(log_row(1, entropy=float("nan"))) + "\n"),
        ("log.jsonl", json.dumps(log_row(1, seconds=[1.0])) + "\n"),
        ("log.jsonl", "[1]\n"),
        ("log.jsonl", "[" * 99999),
        ("metrics.json", "[]"),
        ("metrics.json", "{}"),
        ("metrics.json", "9" * 5000),
        ("metrics.json", '{"n_particles": 1, "wall_seconds": 1.0, "device": "cpu", "symmetry": "Q3"}'),
        ("metrics.json", '{"n_particles": 1, "wall_seconds": 1.0, "device": "cpu", "shared": {}}'),
        (
            "metrics.json",
            '{"n_particles": 1, "wall_seconds": 1.0, "device": "cpu", "class_populations": [1, 2]}',
        ),
        ("comparison.json", '{"maps": {"frequencies": [0, 1], "fsc": [1]}, "poses": {}}'),
        ("comparison.json", "{}"),
        ("volume.mrc", "map"),
        ("particles.star", "data_\n"),
    ],
)
def test_a_damaged_file_is_named(run_folder: Path, name: str, text: str) -> None:
    (run_folder / name).write_text(text)
    with pytest.raises(CryogradError) as error:
        build_report(run_folder)
    assert name in error.value.where
    assert not (run_folder / "report.html").exists()


@pytest.mark.parametrize("name", ["fsc.star", "anisotropy.json", "mask.mrc", "local_resolution.mrc"])
def test_damaged_files_of_half_maps_are_named(run_folder: Path, name: str) -> None:
    curves = {column: np.ones(9) for column in _CURVES} | {"rlnResolution": np.linspace(0.0, 0.1, 9)}
    write_star(run_folder / "fsc.star", {"fsc": pd.DataFrame(curves)})
    quartiles = {"conical_fsc_quartiles": [[1.0] * 8] * 5}
    (run_folder / "anisotropy.json").write_text(json.dumps(quartiles))
    for other in ("mask.mrc", "local_resolution.mrc", "standard_error.mrc"):
        write_map(run_folder / other, np.ones((BOX, BOX, BOX)), 4.0)
    assert load_half_maps(run_folder) is not None
    if name == "fsc.star":
        del curves["rlnResolution"]
        write_star(run_folder / name, {"fsc": pd.DataFrame(curves)})
    elif name == "anisotropy.json":
        (run_folder / name).write_text(json.dumps({"conical_fsc_quartiles": [[1.0] * 20] * 5}))
    elif name == "mask.mrc":
        write_map(run_folder / name, np.zeros((BOX, BOX, BOX)), 4.0)
    else:
        write_map(run_folder / name, np.ones((8, 8, 8)), 4.0)
    with pytest.raises(CryogradError) as error:
        load_half_maps(run_folder)
    assert error.value.where in (str(run_folder / name), str(run_folder))


def test_a_run_without_remarks_has_none(run_folder: Path) -> None:
    assert remarks(load_run(run_folder)) == []


def test_particles_at_the_limit_of_the_search_are_remarked(run_folder: Path) -> None:
    settings = (run_folder / "run.toml").read_text().replace("max_shift = 20.0", "max_shift = 4.0")
    (run_folder / "run.toml").write_text(settings)
    (found,) = remarks(load_run(run_folder))
    assert "limit of the shift search, 4 Å" in found


def test_findings_of_the_metrics_are_remarks(run_folder: Path) -> None:
    path = run_folder / "metrics.json"
    finding = {"key": "rings", "text": "rings are not seen", "doubts": True}
    doubted = {"findings": [finding], "believed": False, "why_not": "no rings"}
    path.write_text(json.dumps(json.loads(path.read_text()) | doubted))
    assert remarks(load_run(run_folder)) == [
        "The claim of this run is not to be believed: no rings.",
        "Rings are not seen.",
    ]


def test_views_are_counted_on_equal_areas_with_their_equivalents() -> None:
    rotations = random_rotations(40000, np.random.default_rng(2))
    density = view_density(rotations, "C1", 16)
    assert density.shape == (8, 16)
    assert density.std() < 0.08
    # A single view from above is four views, by D2 two of them from below.
    single = view_density(np.eye(3)[None], "D2", 16)
    assert single[0].sum() == pytest.approx(single[-1].sum())
    assert np.count_nonzero(single.sum(axis=1)) == 2


def test_the_map_in_the_report_is_not_flipped(run_folder: Path) -> None:
    from cryograd.report.map_images import grey

    image = np.zeros((8, 8))
    image[6, 1] = 1.0  # y = +2, x = -3 from the centre: upper left when y points up
    picture = grey(image, 0.0, 1.0)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert row < picture.shape[0] / 2
    assert column < picture.shape[1] / 2
