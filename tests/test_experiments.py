"""The experiments run from start to end at their quick size, and say what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "building_proteins_in_a_day"
# All other scripts draw a figure of their own name.
SHARED = {"common", "converged", "main_run", "run_all"}
FIGURES = sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED)


@pytest.fixture(scope="module")
def results(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("experiments")
    command = [sys.executable, str(FOLDER / "run_all.py"), str(shared_data), "-o", str(output), "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, env=environment)
    return output, {name: json.loads((output / f"{name}.json").read_text()) for name in FIGURES}


@pytest.mark.slow
def test_every_figure_of_the_paper_is_drawn(results: tuple[Path, dict[str, Any]]) -> None:
    output, records = results
    for name in FIGURES:
        assert (output / f"{name}.png").stat().st_size > 1000
        assert records[name]["options"]["threads"] == 1
        assert records[name]["size"]["name"] == "quick"


@pytest.mark.slow
def test_the_main_run_finds_poses_views_and_map(results: tuple[Path, dict[str, Any]]) -> None:
    _, records = results
    stability = records["pose_stability"]
    assert stability["kl_median"][-1] < 0.5 * max(stability["kl_median"])
    assert stability["entropy_median"][-1] < 0.5 * stability["entropy_median"][0]
    assert records["points_used"]["final_fraction_median"] < 0.05
    views = records["view_distribution"]
    assert views["pearson"] > 0.7
    assert views["view_error_median_degrees"] < 8.0
    snapshots = records["time_course"]["snapshots"]
    assert snapshots[-1]["fsc05_angstrom"] < 30.0
    # A random start agrees with nothing; the gross structure comes within the first pass.
    first = next(row for row in snapshots if row["passes"] >= 1.0)
    assert first["fsc05_angstrom"] < 0.5 * snapshots[0]["fsc05_angstrom"]


@pytest.fixture(scope="module")
def known_poses(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("known_poses")
    script = FOLDER.parent / "efficient_refinement" / "known_poses.py"
    command = [sys.executable, str(script), str(shared_data), "-o", str(output), "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, env=environment)
    assert (output / "known_poses.png").stat().st_size > 1000
    return json.loads((output / "known_poses.json").read_text())


@pytest.mark.slow
def test_the_minimum_at_known_poses_is_one_by_the_images_themselves(known_poses: dict[str, Any]) -> None:
    found = known_poses["reference"]
    assert found["relative_gradient_by_images"] < 1e-6
    assert found["minimum_by_images"] == pytest.approx(found["minimum"], rel=1e-10)
    assert found["minimum"] < found["start"]


@pytest.mark.slow
def test_sums_reach_the_minimum_in_a_visit_of_each_image_and_no_rival_does(
    known_poses: dict[str, Any],
) -> None:
    runs = {run["name"]: run["rows"] for run in known_poses["runs"]}
    images = known_poses["size"]["particles"]
    ours = runs["statistics"]
    assert {row["visited"] for row in ours if row["visited"] >= images} == {images}
    assert ours[-1]["gap"] < 0.01
    assert min(row["gap"] for row in runs["quotient"]) > 0.1
    twice = [row for row in runs["full batch, diagonal"] if row["visited"] == 2 * images]
    assert twice[0]["gap"] > 0.01
    # The published solvers see every image ten times and still are far from it, in the paper's order.
    published = [runs[name][-1] for name in ("SGD", "Algorithm 1", "precomputed diagonal")]
    assert all(row["visited"] == 10 * images for row in published)
    assert 0.9 > published[0]["gap"] > published[1]["gap"] > published[2]["gap"] > 0.01
    # However a minibatch is looked at, the steps are the same.
    for name in ("SGD", "Algorithm 1"):
        through, summed = runs[name][20]["gap"], runs[f"{name}, all by sums"][20]["gap"]
        assert through == pytest.approx(summed, abs=0.01)
