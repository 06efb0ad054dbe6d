"""What every finished run writes of its particles and itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd import __version__
from cryograd.cli.run import Outcome, stage_seconds
from cryograd.config import ParticleRun
from cryograd.data.density import resample_map
from cryograd.data.particles import Particles
from cryograd.inspection.findings import of_ctf
from cryograd.inspection.spectrum import thon_rings
from cryograd.posterior_table import PosteriorTable
from cryograd.state import State


def support(state: State, particles: Particles) -> NDArray[np.float32]:
    """The run's mask at the sampling of the first optics group, (L, L, L)."""
    optics = particles.optics[0]
    mask = state.mask.cpu().numpy()
    mask = resample_map(mask, state.extent / len(mask), optics.box_size, optics.pixel_size)
    return np.clip(mask, 0.0, 1.0)


def posterior_columns(posterior: PosteriorTable) -> dict[str, NDArray]:
    """Columns of the particle file that say how sure each pose is."""
    return {
        "rlnMaxValueProbDistribution": posterior.max_probability,
        "rlnLogLikeliContribution": posterior.log_evidence,
        "cryogradPoseEntropy": posterior.entropy,
        "cryogradEffectiveSampleSize": posterior.effective_size,
    }


def ctf_findings(particles: Particles) -> list[str]:
    """What is wrong with the CTFs, by the rings in the images' power spectra."""
    rings = thon_rings(particles, np.arange(len(particles)))
    return list(of_ctf([kind.facts for kind in rings]))


def metrics_of(
    command: str,
    config: ParticleRun,
    particles: Particles,
    posterior: PosteriorTable,
    state: State,
    done: Outcome,
) -> dict[str, Any]:
    """What metrics.json says of every run: JSON-able."""
    optics = particles.optics[0]
    return {
        "command": command,
        "version": __version__,
        "n_particles": len(particles),
        "box_size": optics.box_size,
        "pixel_size_angstrom": optics.pixel_size,
        "symmetry": state.symmetry,
        "seed": config.seed,
        "device": str(state.volume.device),
        # A run that its held-out images ended has done fewer than it planned.
        "iterations": len(done.log),
        "wall_seconds": done.seconds,
        "stage_seconds": stage_seconds(done.log),
        "particle_diameter_angstrom": config.particle_diameter or 0.9 * state.extent,
        "max_shift_angstrom": 0.2 * state.extent if config.max_shift is None else config.max_shift,
        "log_evidence_mean": float(np.mean(posterior.log_evidence)),
        "pose_entropy_mean": float(np.mean(posterior.entropy)),
        "findings": ctf_findings(particles),
        "max_probability_mean": float(np.mean(posterior.max_probability)),
    }
