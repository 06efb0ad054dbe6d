"""``cryograd abinitio``: run the engine on a particle file and keep what it yields."""

import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from cryograd import __version__, checkpoint, reconstruct
from cryograd.checkpoint import Checkpoint
from cryograd.cli.folder import RunFolder
from cryograd.cli.interrupt import StopRequest
from cryograd.cli.options import read_toml
from cryograd.cli.progress import Progress
from cryograd.config import Abinitio, to_toml
from cryograd.data.density import resample_map
from cryograd.data.mrc import write_map
from cryograd.data.particles import Particles, image_names, read_particles
from cryograd.data.star import write_particles_star
from cryograd.errors import CryogradError
from cryograd.report.build import build_report
from cryograd.state import State, full_volume
from cryograd.threads import set_threads

# What may differ between a run and its continuation; with other threads it ends with other rounding.
_FREE = {"output", "threads", "checkpoint_seconds"}


def run(config: Abinitio) -> dict[str, Any]:
    """Reconstruct, write all files of the run, and return its metrics."""
    folder = RunFolder(config.output)
    folder.check(config.resume)
    if config.resume:
        _check_same_run(config, folder)
    particles = read_particles(
        config.particles, pixel_size=config.pixel_size, invert_contrast=config.invert_contrast
    )
    if config.threads is not None:
        set_threads(config.threads)
    saved = checkpoint.load(folder.checkpoint) if config.resume else None
    state, seconds = _reconstruct(config, particles, folder, saved)
    metrics = _metrics(config, particles, state, seconds)
    _write_results(folder, particles, state, metrics)
    build_report(folder.path)
    return metrics | {"output": str(config.output)}


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


def _check_same_run(config: Abinitio, folder: RunFolder) -> None:
    """Refuse to continue a run with other settings than it began with."""
    before = Abinitio.model_validate(read_toml(folder.record) | {"output": folder.path})
    for name, field in Abinitio.model_fields.items():
        if field.exclude or name in _FREE:
            continue
        was, now = getattr(before, name), getattr(config, name)
        if was != now:
            raise CryogradError(
                f"{name} was {was} and is now {now}", folder.record, "resume with --resume and -o alone"
            )


def _reconstruct(
    config: Abinitio, particles: Particles, folder: RunFolder, saved: Checkpoint | None
) -> tuple[State, float]:
    """Run the engine to its end; the folder holds the map and a checkpoint all along.

    Returns
    -------
    tuple
        The last state and the run's time in seconds, earlier parts of a resumed run included.
    """
    images = image_names(particles)
    if saved is not None and saved.images != images:
        raise CryogradError(
            "the particle file names other images than when the run began",
            config.particles,
            "restore it, or start a new run in another folder",
        )
    before = None if saved is None else State.from_state_dict(saved.state)
    state = before
    began = time.monotonic() - (0.0 if saved is None else saved.wall_seconds)
    schedule = checkpoint.Schedule(config.checkpoint_seconds)
    _start(config, folder, state)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        progress = stack.enter_context(Progress())
        try:
            for state in reconstruct.abinitio(particles, config, before, progress.reading):
                folder.append_log(state.history[-1])
                progress.show(state)
                if schedule.due() or stop.requested:
                    _save(folder, particles, state, images, time.monotonic() - began)
                if stop.requested:
                    progress.say(f"continue with: cryograd abinitio -o {folder.path} --resume")
                    stop.leave()
        except BaseException:
            # A run that ends before its first iteration, for whatever reason, leaves nothing behind.
            if state is None:
                folder.discard()
            raise
    assert state is not None
    seconds = time.monotonic() - began
    _save(folder, particles, state, images, seconds)
    return state, seconds


def _start(config: Abinitio, folder: RunFolder, state: "State | None") -> None:
    """Make the folder ready: a new run's record, or a resumed run's log as of its checkpoint."""
    if state is None:
        folder.create()
        folder.write_record(f"# cryograd {__version__} abinitio\n\n{to_toml(config)}")
    else:
        folder.rewrite_log(state.history)


def _save(folder: RunFolder, particles: Particles, state: State, images: str, seconds: float) -> None:
    """Write the map so far, and a checkpoint."""
    checkpoint.save(folder.checkpoint, Checkpoint(state.state_dict(), seconds, images))
    write_map(folder.volume, *full_volume(state, particles))


def _write_results(folder: RunFolder, particles: Particles, state: State, metrics: dict[str, Any]) -> None:
    """Write what a finished run leaves besides its map, log and checkpoint."""
    optics = particles.optics[0]
    mask = state.mask.cpu().numpy()
    mask = resample_map(mask, state.extent / mask.shape[0], optics.box_size, optics.pixel_size)
    write_map(folder.mask, np.clip(mask, 0.0, 1.0), optics.pixel_size)
    posterior = state.posterior
    columns = {
        "rlnMaxValueProbDistribution": posterior.max_probability,
        "rlnLogLikeliContribution": posterior.log_evidence,
        "cryogradPoseEntropy": posterior.entropy,
    }
    write_particles_star(folder.particles, particles, posterior.rotations, posterior.shifts, columns)
    folder.write_metrics(metrics)


def _metrics(config: Abinitio, particles: Particles, state: State, seconds: float) -> dict[str, Any]:
    """What metrics.json says: JSON-able."""
    optics = particles.optics[0]
    posterior = state.posterior
    stages: dict[str, float] = {}
    for row in state.history:
        for stage, spent in row["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + spent
    return {
        "command": "abinitio",
        "version": __version__,
        "n_particles": len(particles),
        "box_size": optics.box_size,
        "pixel_size_angstrom": optics.pixel_size,
        "symmetry": config.symmetry,
        "seed": config.seed,
        "device": str(state.volume.device),
        # A run that its held-out images ended has done fewer than it planned.
        "iterations": len(state.history),
        "solver_memory_bytes": state.solver_bytes,
        "wall_seconds": seconds,
        "stage_seconds": stages,
        # Needs independent half-sets, which an ab initio run does not have.
        "resolution_fsc143_angstrom": None,
        "resolution_march_angstrom": float(state.resolution),
        "particle_diameter_angstrom": config.particle_diameter or 0.9 * state.extent,
        "max_shift_angstrom": 0.2 * state.extent if config.max_shift is None else config.max_shift,
        "log_evidence_mean": float(np.mean(posterior.log_evidence)),
        "pose_entropy_mean": float(np.mean(posterior.entropy)),
        "max_probability_mean": float(np.mean(posterior.max_probability)),
    }
