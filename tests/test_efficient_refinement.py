"""The experiments on conditioning run at their quick size, and say what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "efficient_refinement"


def result(name: str, output: Path) -> dict[str, Any]:
    """The record of a script, after it has drawn its figure."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "-o", str(output), "--quick"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (output / f"{name}.png").stat().st_size > 1000
    return json.loads((output / f"{name}.json").read_text())


@pytest.mark.slow
def test_condition_numbers_are_above_the_bound_and_fall_with_the_ctf_and_preconditioning(tmp_path: Path):
    record = result("condition_number", tmp_path)
    plain, with_ctf = (
        next(c for c in record["cases"] if (c["biased"], c["ctf"]) == (False, x)) for x in (0, 1)
    )
    for row, (radius, bound) in zip(plain["nearest"], record["bound"], strict=True):
        assert row["radius"] == radius
        assert row["condition_number"] > bound
    for row, other in zip(plain["linear"], with_ctf["linear"], strict=True):
        assert row["preconditioned"] < 0.5 * row["condition_number"]
        assert other["condition_number"] < row["condition_number"]


@pytest.mark.slow
def test_hutchinsons_error_is_within_a_tenth_of_its_law(tmp_path: Path):
    record = result("hutchinson_error", tmp_path)
    assert record["largest_departure"] < 0.1
    assert record["nearest_one_probe"] < 1e-6
