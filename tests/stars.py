"""A small STAR file with a stack of images beside it, for tests."""

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

OPTICS = "opticsGroup1 1 300.0 2.7 0.1 1.5 8"
OPTICS_COLUMNS = [
    "rlnOpticsGroupName",
    "rlnOpticsGroup",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
]
COLUMNS = ["rlnImageName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]


def loop(name: str, columns: list[str], rows: list[str]) -> str:
    header = "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, 1))
    return f"\ndata_{name}\n\nloop_\n{header}" + "".join(f"{row}\n" for row in rows) + "\n"


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((4, 8, 8)).astype(np.float32)


@pytest.fixture
def make_star(tmp_path: Path, images: np.ndarray) -> Callable[..., Path]:
    """Write a 3.1 STAR file with a stack of four 8 px images beside it, and give the STAR's path."""

    def make(
        columns: list[str] = COLUMNS,
        rows: list[str] | None = None,
        optics_columns: list[str] = OPTICS_COLUMNS,
        optics: list[str] | None = None,
        stack: np.ndarray = images,
    ) -> Path:
        with mrcfile.new(tmp_path / "a.mrcs", overwrite=True) as mrc:
            mrc.set_data(stack)
        if rows is None:
            rows = [f"00000{i}@a.mrcs 1 {10000 + i} 9000 30" for i in (1, 2, 3, 4)]
        path = tmp_path / "particles.star"
        text = loop("optics", optics_columns, [OPTICS] if optics is None else optics)
        path.write_text(text + loop("particles", columns, rows))
        return path

    return make
