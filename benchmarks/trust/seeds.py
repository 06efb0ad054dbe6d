"""Small sound files of every kind, made by the program itself, which `fuzz` spoils."""

import contextlib
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cryograd.cli.main import main
from cryograd.data.mrc import StackWriter, write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.read import read_particles
from cryograd.data.star import read_star, write_star
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate

BOX, PIXEL, IMAGES = 24, 6.0, 40
# Larger files of other people say nothing more, and take longer.
LARGEST = 300_000
_RUN = ("--threads", "1", "--checkpoint-seconds", "0", "--max-shift", "12", "--symmetry", SYMMETRY)
_RUNS = {
    "abinitio": ("abinitio", "seeds/sim/particles.star", "--iterations", "3", "--starts", "1", *_RUN),
    "classes": ("abinitio", "seeds/sim/particles.star", "--iterations", "3", "--classes", "2", *_RUN),
    "refine": (
        *("refine", "seeds/sim/particles.star", "--volume", "seeds/sim/truth.mrc"),
        *("--minibatch", "20", "--passes", "1", *_RUN),
    ),
}
_CONFIG = """\
# Settings of several commands.
particles = "seeds/sim/particles.star"
output = 'out'
symmetry = "D2"
max-shift = 12.5
particle_diameter = 9e1
classes = 2
iterations = 1_000
seed = 7
invert_contrast = true
volume = ["a.mrc", "b.mrc"]
passes = 1.5
where = "rlnDefocusU < 2e4"
solver = "preconditioned"
"""


@dataclass(frozen=True)
class Seeds:
    """Sound files.

    Parameters
    ----------
    folder
        Where they are; ``sim`` in it has particles, their stack and their map.
    contents
        Contents of files by the kind that the ending of their names says.
    runs
        Folders of runs.
    """

    folder: Path
    contents: dict[str, list[bytes]]
    runs: list[Path]


def made_seeds(folder: Path, more: Sequence[Path]) -> Seeds:
    """Make what is not there yet, in a folder of the present one, and read everything.

    Parameters
    ----------
    folder
        The folder, called ``seeds``.
    more
        Folders with files of other people.
    """
    sim = folder / "sim"
    if not (sim / "passthrough.cs").is_file():
        shutil.rmtree(sim, ignore_errors=True)
        optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
        density = molecule(BOX, PIXEL)
        simulate(density, PIXEL, Simulation(IMAGES, (optics,), snr=2.0, seed=5), sim)
        write_map(sim / "truth.mrc", density, PIXEL)
        _write_others(sim)
    for name, line in _RUNS.items():
        if not (folder / name / "report.html").is_file():
            shutil.rmtree(folder / name, ignore_errors=True)
            with contextlib.redirect_stdout(io.StringIO()):
                main([*line, "-o", str(folder / name)])
    found: dict[str, list[bytes]] = {"toml": [_CONFIG.encode()]}
    for path in sorted(_files([folder, *more])):
        kind = {"mrcs": "mrc"}.get(path.suffix[1:].lower(), path.suffix[1:].lower())
        found.setdefault(kind, []).append(path.read_bytes())
    found["own cs"] = [path.read_bytes() for path in sorted(sim.glob("*.cs"))]
    return Seeds(folder, found, [folder / name for name in _RUNS])


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    """Files that are not too large."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size <= LARGEST:
                yield path


def _write_others(sim: Path) -> None:
    """The same particles in other forms: of RELION 3.0, with two groups and odd names, and of CryoSPARC."""
    blocks = read_star(sim / "particles.star")
    optics, table = blocks["optics"], blocks["particles"]
    old = table.drop(columns="rlnOpticsGroup").assign(
        **{name: optics[name].iloc[0] for name in ("rlnVoltage", "rlnSphericalAberration")},
        rlnAmplitudeContrast=0.1,
        rlnDetectorPixelSize=PIXEL,
        rlnMagnification=10000.0,
        rlnMicrographName=[f"mic {k // 20}.mrc" for k in range(len(table))],
        rlnCoordinateX=np.arange(len(table)) * 30.0,
        rlnCoordinateY=100.0,
    )
    write_star(sim / "old.star", {"": old})
    second = optics.assign(rlnOpticsGroup=2, rlnOpticsGroupName="second one's", rlnVoltage=200.0)
    both = pd.concat([optics, second], ignore_index=True)
    halves = np.arange(len(table)) % 2 + 1
    changed = table.assign(rlnOpticsGroup=halves, rlnRandomSubset=halves, rlnClassNumber=halves)
    beam = both.assign(rlnBeamTiltX=0.1, rlnBeamTiltY=-0.2, rlnOddZernike="[0,0,0.1,0,0,0]")
    write_star(sim / "groups.star", {"optics": beam, "particles": changed})
    particles = read_particles(sim / "particles.star")
    with StackWriter(sim / "half.mrcs", 3, BOX, PIXEL, np.float16) as stack:
        stack.append(particles.images([0, 1, 2]))
    np.save(sim / "particles.npy", _cryosparc_rows(IMAGES))
    (sim / "particles.npy").rename(sim / "particles.cs")
    through = _cryosparc_rows(IMAGES)[["uid", "alignments3D/pose", "location/center_x_frac"]]
    np.save(sim / "passthrough.npy", through.copy())
    (sim / "passthrough.npy").rename(sim / "passthrough.cs")


def _cryosparc_rows(n: int) -> np.ndarray:
    """Rows of a CryoSPARC file with all that is read of one."""
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {
        "uid": rng.integers(2**60, size=n, dtype=np.uint64),
        "blob/path": np.array([b">particles.mrcs"] * n, dtype="S40"),
        "blob/idx": np.arange(n, dtype=np.uint32),
        "blob/shape": np.full((n, 2), BOX, dtype=np.uint32),
        "blob/psize_A": np.full(n, PIXEL, dtype=np.float32),
        "blob/sign": np.full(n, -1.0, dtype=np.float32),
        "ctf/exp_group_id": (np.arange(n) % 2).astype(np.uint32),
        "ctf/accel_kv": np.full(n, 300.0, dtype=np.float32),
        "ctf/cs_mm": np.full(n, 2.7, dtype=np.float32),
        "ctf/amp_contrast": np.full(n, 0.1, dtype=np.float32),
        "ctf/df1_A": rng.uniform(1e4, 2e4, n).astype(np.float32),
        "ctf/df2_A": rng.uniform(1e4, 2e4, n).astype(np.float32),
        "ctf/df_angle_rad": rng.uniform(0.0, 3.0, n).astype(np.float32),
        "ctf/phase_shift_rad": np.zeros(n, dtype=np.float32),
        "ctf/bfactor": np.zeros(n, dtype=np.float32),
        "ctf/scale": np.ones(n, dtype=np.float32),
        "ctf/tilt_A": np.full((n, 2), 3.0, dtype=np.float32),
        "ctf/tetra_A": np.zeros((n, 4), dtype=np.float32),
        "alignments3D/pose": rng.normal(0.0, 1.0, (n, 3)).astype(np.float32),
        "alignments3D/shift": rng.normal(0.0, 1.0, (n, 2)).astype(np.float32),
        "alignments3D/psize_A": np.full(n, PIXEL, dtype=np.float32),
        "alignments3D/split": (np.arange(n) % 2).astype(np.uint32),
        "alignments3D/class": np.zeros(n, dtype=np.uint32),
        "location/micrograph_path": np.array([b">mic_\xc3\xa5.mrc"] * n, dtype="S40"),
        "location/micrograph_shape": np.full((n, 2), 4096, dtype=np.uint32),
        "location/center_x_frac": rng.uniform(size=n).astype(np.float32),
        "location/center_y_frac": rng.uniform(size=n).astype(np.float32),
    }
    rows = np.zeros(n, dtype=[(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows
