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
