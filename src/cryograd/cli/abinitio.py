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
    if config.classes > 1:
        metrics["class_populations"] = posterior.classes.mean(axis=0).tolist()
        columns["rlnClassNumber"] = 1 + posterior.classes.argmax(axis=1)
        columns |= {f"cryogradClassProbability{k}": p for k, p in enumerate(posterior.classes.T, 1)}
    write_particles_star(folder.particles, particles, posterior.rotations, posterior.shifts, columns)
    folder.write_metrics(metrics)
    build_report(folder.path)
    return metrics | {"output": str(config.output)}


def engine(config: Abinitio, particles: Particles, volume: Path) -> Engine[State]:
    """The ab initio engine, which keeps its map in a file, and those of several classes beside it."""

    def keep(state: State) -> None:
        write_map(volume, *full_volume(state, particles))
        for number, single in enumerate(state.classes if config.classes > 1 else (), 1):
            write_map(volume.with_name(f"class{number}.mrc"), *full_volume(single, particles))

    return Engine(
        lambda before, reading: reconstruct.abinitio(particles, config, before, reading),
        State.from_state_dict,
        keep,
    )


def summary(metrics: dict[str, Any]) -> str:
    """What a run gave, in a few lines."""
    output, mean = metrics["output"], metrics["max_probability_mean"]
    populations = enumerate(metrics.get("class_populations", []), 1)
    return "\n".join(
        [
            f"{metrics['n_particles']} particles, box {metrics['box_size']} px at "
            f"{metrics['pixel_size_angstrom']:.4g} Å, symmetry {metrics['symmetry']}",
            f"{metrics['iterations']} iterations to {metrics['resolution_march_angstrom']:.1f} Å "
            f"in {metrics['wall_seconds']:.0f} s on {metrics['device']}",
            f"mean probability of the best orientation {mean:.2f}",
            f"map     {output}/volume.mrc",
            *(f"class {k} {output}/class{k}.mrc, {share:.0%} of the particles" for k, share in populations),
            f"poses   {output}/particles.star",
            f"report  {output}/report.html",
            *(f"! {finding}" for finding in metrics["findings"]),
        ]
    )
