"""``cryograd abinitio``: run the engine on a particle file and keep what it yields."""

from pathlib import Path
from typing import Any

from cryograd import reconstruct
from cryograd.cli.results import metrics_of, posterior_columns, support
from cryograd.cli.run import Engine, begin, drive
from cryograd.config import Abinitio
from cryograd.data.mrc import write_map
from cryograd.data.particles import Particles
from cryograd.data.star import write_particles_star
from cryograd.report.build import build_report
from cryograd.state import State, full_volume


def run(config: Abinitio) -> dict[str, Any]:
    """Reconstruct, write all files of the run, and return its metrics."""
    folder, particles = begin(config)
    done = drive("abinitio", config, folder, particles, [engine(config, particles, folder.volume)])
    state, posterior = done.state, done.state.posterior
    metrics = metrics_of("abinitio", config, particles, posterior, state, done) | {
        "solver_memory_bytes": state.solver_bytes,
        # Needs independent half-sets, which an ab initio run does not have.
        "resolution_fsc143_angstrom": None,
        "resolution_march_angstrom": float(state.resolution),
    }
    write_map(folder.mask, support(state, particles), particles.optics[0].pixel_size)
    columns = posterior_columns(posterior)
    write_particles_star(folder.particles, particles, posterior.rotations, posterior.shifts, columns)
    folder.write_metrics(metrics)
    build_report(folder.path)
    return metrics | {"output": str(config.output)}


def engine(config: Abinitio, particles: Particles, volume: Path) -> Engine[State]:
    """The ab initio engine, which keeps its map in a file."""
    return Engine(
        lambda before, reading: reconstruct.abinitio(particles, config, before, reading),
        State.from_state_dict,
        lambda state: write_map(volume, *full_volume(state, particles)),
    )


def summary(metrics: dict[str, Any]) -> str:
    """What a run gave, in a few lines."""
    output, mean = metrics["output"], metrics["max_probability_mean"]
    return "\n".join(
        [
            f"{metrics['n_particles']} particles, box {metrics['box_size']} px at "
            f"{metrics['pixel_size_angstrom']:.4g} Å, symmetry {metrics['symmetry']}",
            f"{metrics['iterations']} iterations to {metrics['resolution_march_angstrom']:.1f} Å "
            f"in {metrics['wall_seconds']:.0f} s on {metrics['device']}",
            f"mean probability of the best orientation {mean:.2f}",
            f"map     {output}/volume.mrc",
            f"poses   {output}/particles.star",
            f"report  {output}/report.html",
        ]
    )
