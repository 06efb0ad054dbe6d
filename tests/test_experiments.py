"""The experiments run from start to end at their quick size, and say what they should."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "building_proteins_in_a_day"
# All other scripts draw a figure of their own name; these draw one of the main run.
SHARED = {"common", "converged", "main_run", "run_all"}
MAIN_RUN = ("pose_stability", "points_used", "view_distribution", "time_course")
OTHERS = sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED - set(MAIN_RUN))


def drawn(name: str, data: Path, output: Path) -> dict[str, Any]:
    """The record of a script, after it has drawn its figure."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), str(data), "-o", str(output), "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, env=environment)
    assert (output / f"{name}.png").stat().st_size > 1000
    record = json.loads((output / f"{name}.json").read_text())
    assert record["options"]["threads"] == 1
    assert record["size"]["name"] == "quick"
    return record


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


@pytest.mark.experiments
@pytest.mark.parametrize("name", OTHERS)
def test_every_figure_of_the_paper_is_drawn(name: str, shared_data: Path, output: Path) -> None:
    drawn(name, shared_data, output)


def test_all_experiments_run_one_after_the_other() -> None:
    tree = ast.parse((FOLDER / "run_all.py").read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXPERIMENTS"
    )
    assert sorted(listed) == sorted([*MAIN_RUN, *OTHERS])


@pytest.mark.experiments
def test_the_main_run_finds_poses_views_and_map(shared_data: Path, output: Path) -> None:
    records = {name: drawn(name, shared_data, output) for name in MAIN_RUN}
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
