"""Refinement of unknown, marginalised poses from an ab initio map: stochastic steps and EM side by side.

All solvers start from the same map, with the same half-sets, sampler and rule for opening the spectrum. A
pass is one evaluation of the posterior of every image; times are of the processor, scoring left out.

    python unknown_poses.py MOLECULE DATA -o OUT [--quick] [--proposal search]

MOLECULE is ``ribosome`` (70S, C1), ``groel-groes`` (C7), ``t20s`` (D7), or ``beta-galactosidase`` (D2), the
real particles of EMPIAR-10204. DATA holds structures/, conventions/ and bgal-10204/.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cryograd.atomic import replacing
from cryograd.config import Abinitio, Refine
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.engine.frame import taken_out
from cryograd.engine.state import State
from cryograd.maps import Map
from cryograd.recipe import abinitio, refine
from cryograd.simulation.simulate import density_diameter
from cryograd.threads import set_threads
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at, soft_sphere

sys.path.insert(0, str(Path(__file__).parents[1]))
from simulated import SYMMETRY, particles_of, save

# Å. Images are shifted by up to 10 Å; the real ones are badly centred.
MAX_SHIFT, REAL_MAX_SHIFT = 12.0, 45.0
AB_INITIO_RESOLUTION, START_RESOLUTION = 25.0, 40.0
# Å, and the side of the full size's box in pixels.
EXTENT, BOX = {"ribosome": 325.0, "groel-groes": 300.0, "t20s": 230.0}, 64
# Radius in pixels of the sphere in which maps of the real particles are compared.
SPHERE = 27.0
SOLVERS = ("incremental", "em", "preconditioned")
# Part of the final resolution that counts as reached, and times that a pass of a stochastic solver is scored.
REACHED, SCORED = 1.02, 10
KEYS = ("half_map_angstrom", "truth_angstrom")


@dataclass(frozen=True)
class Size:
    """Size of a simulated set, of a half's minibatch, and passes of the stochastic solvers and of EM."""

    name: str
    box: int
    pixel_size: float
    particles: int
    snr: float
    minibatch: int
    passes: float
    em_passes: int


@dataclass(frozen=True)
class Problem:
    """Particles and what is known of them.

    Parameters
    ----------
    particles
        The particles.
    file
        Their file.
    truth
        The map to compare with, inside a sphere for real particles.
    symmetry
        Point group.
    diameter, max_shift
        Å.
    """

    particles: Particles
    file: Path
    truth: Map
    symmetry: str
    diameter: float
    max_shift: float
    sphere: NDArray[np.float32]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line, with the `Size` they ask for as ``size``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("molecule", choices=[*EXTENT, "beta-galactosidase"])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--proposal", default="importance", choices=["importance", "search"])
    parser.add_argument("--solvers", nargs="+", default=SOLVERS, choices=SOLVERS)
    parser.add_argument("--particles", type=int, default=10_000)
    parser.add_argument("--snr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a size that takes minutes")
    options = parser.parse_args(argv)
    extent = EXTENT.get(options.molecule, 0.0)
    if options.quick:
        options.size = Size("quick", 32, extent / 32, 400, 0.3, 50, 2.0, 4)
    elif extent:
        options.size = Size("full", BOX, extent / BOX, options.particles, options.snr, 250, 1.2, 6)
    else:
        options.size = Size("real", 64, 3.54, 1268, 0.125, 80, 6.0, 15)
    set_threads(options.threads)
    return options


def problem_of(options: argparse.Namespace) -> Problem:
    """The particles that the options name; simulated ones from their folder if they are there already."""
    if options.molecule == "beta-galactosidase":
        file = options.data / "bgal-10204" / "particles_clean_1268.star"
        truth = Map.read(options.data / "bgal-10204" / "reference_5a1a_64px.mrc")
        sphere = soft_sphere(len(truth.values), SPHERE, 3.0).astype(np.float32)
        return Problem(read_particles(file), file, truth, "D2", 200.0, REAL_MAX_SHIFT, sphere)
    size, folder = options.size, options.output / f"{options.molecule}-{options.size.name}"
    folder.mkdir(parents=True, exist_ok=True)
    particles, truth = particles_of(options.molecule, size, options.data, folder, seed=options.seed)
    diameter = min(0.95 * particles.extent, 1.1 * density_diameter(truth.values, truth.pixel_size))
    whole, symmetry = np.ones_like(truth.values), SYMMETRY[options.molecule]
    return Problem(particles, folder / "particles.star", truth, symmetry, diameter, MAX_SHIFT, whole)


def start_of(problem: Problem, options: argparse.Namespace) -> tuple[Path, float]:
    """An ab initio map of the particles, made once, and the processor time that it took."""
    file = options.output / f"start-{options.molecule}-{options.size.name}-{options.seed}.mrc"
    record = file.with_suffix(".txt")
    if not record.is_file():
        config = Abinitio(
            particles=problem.file,
            symmetry=problem.symmetry,
            particle_diameter=problem.diameter,
            max_shift=problem.max_shift,
            max_resolution=max(AB_INITIO_RESOLUTION, 2.5 * problem.truth.pixel_size),
            # The ribosome's map has density below zero.
            prior="none" if options.molecule == "ribosome" else "exponential",
            seed=options.seed,
        )
        began = time.process_time()
        *_, last = abinitio(problem.particles, config)
        seconds = time.process_time() - began
        taken_out(last.state, problem.particles, problem.symmetry, last.state.volume).write(file)
        record.write_text(f"{seconds}\n")
    return file, float(record.read_text())


def rows_of(problem: Problem, start: Path, solver: Any, options: argparse.Namespace) -> Iterator[dict]:
    """What a refinement reached, time after time."""
    size = options.size
    config = Refine(
        particles=problem.file,
        volume=(start,),
        symmetry=problem.symmetry,
        particle_diameter=problem.diameter,
        max_shift=problem.max_shift,
        start_resolution=max(START_RESOLUTION, 4.0 * problem.truth.pixel_size),
        proposal=options.proposal,
        solver=solver,
        minibatch=size.minibatch,
        passes=size.em_passes if solver == "em" else size.passes,
        # The experiment is about solvers: none has a constraint.
        prior="none",
        seed=options.seed,
    )
    cpu = wall = 0.0
    run, scored = refine(problem.particles, config), 0.0
    while True:
        began = time.process_time(), time.perf_counter()
        moment = next(run, None)
        cpu, wall = cpu + time.process_time() - began[0], wall + time.perf_counter() - began[1]
        if moment is None or moment.state.stage == "poses":
            return
        passes = moment.history[-1]["images_drawn"] / len(problem.particles)
        if passes < scored + 1.0 / SCORED - 1e-6:
            continue
        scored = passes
        row = {"passes": passes, "cpu_seconds": cpu, "wall_seconds": wall} | score(problem, moment.state)
        shown = {key: round(value, 2) for key, value in row.items() if isinstance(value, float)}
        print(options.molecule, solver, shown, flush=True)
        yield row


def score(problem: Problem, state: State) -> dict[str, Any]:
    """Resolution by the half maps and to the truth in Å, and the correlation with the truth."""
    assert state.curves is not None
    volume, truth = state.volume.cpu().numpy(), problem.truth
    size, pixel = len(volume), state.extent / len(volume)
    aligned = align(volume, truth.values, pixel, truth.pixel_size).volume
    _, values = fsc(aligned * problem.sphere, truth.values * problem.sphere)
    return {
        "radius": state.radius,
        "half_map_angstrom": resolution_at(state.curves[state.best], 0.143, size, pixel),
        "truth_angstrom": resolution_at(values, 0.5, len(truth.values), truth.pixel_size),
        "fsc_to_truth": [round(float(v), 4) for v in values],
    }


def reached(rows: list[dict], key: str, resolution: float) -> dict[str, float] | None:
    """The first row that is as good as a resolution and stays so at its next scoring."""
    good = [row[key] is not None and row[key] <= resolution for row in rows]
    for row, now, then in zip(rows, good, [*good[1:], True], strict=True):
        if now and then:
            return {name: row[name] for name in ("passes", "cpu_seconds", "wall_seconds")}
    return None


def compared(runs: dict[str, list[dict]]) -> dict[str, Any]:
    """When each solver is first within 2 % of EM's last resolution."""
    found: dict[str, Any] = {}
    for key in KEYS:
        if runs["em"][-1][key] is None:
            found[key] = None
            continue
        goal = REACHED * runs["em"][-1][key]
        found[key] = {"goal": goal} | {name: reached(rows, key, goal) for name, rows in runs.items()}
    return found


def draw(options: argparse.Namespace, runs: dict[str, list[dict]]) -> Figure:
    """Resolution to the truth, and by half maps, against passes and time."""
    figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.5), sharey="row", layout="constrained")
    labels = ("half maps, FSC = 0.143 (Å)", "to the truth, FSC = 0.5 (Å)")
    for line, key, label in zip(axes, KEYS, labels, strict=True):
        for axis, against in zip(line, ("passes", "cpu_seconds"), strict=True):
            for solver, rows in runs.items():
                shown = [row for row in rows if row[key] is not None]
                axis.plot([r[against] for r in shown], [r[key] for r in shown], ".-", label=solver)
            axis.set(xlabel=against.replace("cpu_seconds", "processor time (s)"), yscale="log")
        line[0].set_ylabel(label)
    axes[0, 0].legend(frameon=False)
    figure.suptitle(f"{options.molecule}, poses by {options.proposal}")
    return figure


def main(argv: list[str] | None = None) -> None:
    """Refine with each solver, and compare."""
    options = arguments(argv)
    problem = problem_of(options)
    start, seconds = start_of(problem, options)
    name = f"unknown_poses_{options.molecule}_{options.proposal}"
    size, seed = options.size.name, options.seed
    files = {solver: options.output / f"{name}_{solver}_{size}_{seed}.json" for solver in SOLVERS}
    for solver in options.solvers:
        rows: list[dict] = []
        for row in rows_of(problem, start, solver, options):
            rows.append(row)
            # Hours of work: what there is of it is kept, and solvers may run beside each other.
            with replacing(files[solver]) as temporary:
                temporary.write_text(json.dumps(rows) + "\n")
    runs = {solver: json.loads(file.read_text()) for solver, file in files.items() if file.is_file()}
    record: dict[str, Any] = {"start_cpu_seconds": seconds, "symmetry": problem.symmetry, "runs": runs}
    if "em" in runs:
        record["reached"] = compared(runs)
        print(record["reached"], flush=True)
    save(options, name, draw(options, runs), record)


if __name__ == "__main__":
    main()
