"""``cryograd refine``: two half maps from a map, and everything that they say."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from cryograd import refine
from cryograd.atomic import write_text
from cryograd.cli.folder import RunFolder
from cryograd.cli.results import metrics_of, posterior_columns, support
from cryograd.cli.run import Engine, Outcome, begin, drive
from cryograd.config import HalfSetRun, Reconstruct, Refine
from cryograd.data.fsc_files import write_fsc_star, write_fsc_xml
from cryograd.data.mrc import write_map
from cryograd.data.particles import Particles
from cryograd.data.star import write_particles_star, write_poses_star
from cryograd.halves import SCALE_WIDTH, Halves
from cryograd.report.build import build_report
from cryograd.state import full_volume
from cryograd.validation.half_maps import Findings, Map, examine_half_maps
from cryograd.validation.junk import junk_probability
from cryograd.validation.standard_error import StandardError, standard_error

States = Callable[[Halves | None, Callable[[int, int], None]], Iterator[Halves]]


def run(config: Refine) -> dict[str, Any]:
    """Refine, write all files of the run, and return its metrics."""
    folder, particles = begin(config)
    states = partial(refine.refine, particles, config)
    done = drive("refine", config, folder, particles, [engine(states, particles, folder)])
    return finish("refine", config, particles, folder, done)


def engine(states: States, particles: Particles, folder: RunFolder) -> Engine[Halves]:
    """A refinement's engine, which keeps both half maps and their mean."""
    return Engine(states, Halves.from_state_dict, partial(_keep_maps, folder, particles))


def finish(
    command: str, config: Refine | Reconstruct, particles: Particles, folder: RunFolder, done: Outcome
) -> dict[str, Any]:
    """Examine the half maps, write what a finished run leaves, and return its metrics."""
    halves: Halves = done.state
    states = halves.states
    (first, pixel), (second, _) = (full_volume(s, particles, s.candidates[0].unfiltered) for s in states)
    inside, posterior = support(states[0], particles), halves.posterior
    findings = examine_half_maps(
        first,
        second,
        pixel,
        inside,
        None if config.mask is None else inside,
        posterior.rotations,
        states[0].symmetry,
        config.seed,
    )
    error = _standard_error(halves, first, second, pixel, findings)
    _write_maps(folder, findings, error, pixel)
    listed = _write_particles(folder, config, particles, halves)
    metrics = metrics_of(command, config, particles, posterior, states[0], done)
    metrics |= _resolution(findings) | _noise(findings, error) | {"n_junk": listed}
    metrics["shared"] = _shared(config, halves)
    folder.write_metrics(metrics)
    build_report(folder.path)
    return metrics | {"output": str(config.output)}


def _write_particles(folder: RunFolder, config: HalfSetRun, particles: Particles, halves: Halves) -> int:
    """Write poses of all particles, and of those that look like junk; how many these are."""
    posterior = halves.posterior
    # Where only the shared grid was used, nothing is known of the match.
    ratio = np.divide(
        posterior.match, posterior.energy, out=np.ones(len(particles)), where=posterior.energy > 0.0
    )
    junk = junk_probability(ratio)
    columns = posterior_columns(posterior) | {
        "rlnRandomSubset": halves.members,
        "cryogradScale": posterior.scales(SCALE_WIDTH, particles.scale_group),
        "cryogradJunkProbability": junk,
    }
    if config.refine_ctf:
        change = posterior.defocus_change
        particles = particles.with_ctf(
            particles.defocus_u + change, particles.defocus_v + change, particles.scale
        )
    write_particles_star(folder.particles, particles, posterior.rotations, posterior.shifts, columns)
    listed = np.flatnonzero(junk > 0.5)
    if len(listed):
        chosen = {name: values[listed] for name, values in columns.items()}
        poses = posterior.rotations[listed], posterior.shifts[listed]
        write_particles_star(folder.path / "junk.star", particles.select(listed), *poses, chosen)
    if config.top_poses:
        poses = posterior.top_rotations, posterior.top_shifts, posterior.top_probabilities
        write_poses_star(folder.path / "poses.star", particles, *poses)
    return len(listed)


def summary(metrics: dict[str, Any]) -> str:
    """What a run gave, in a few lines."""
    output, resolution = metrics["output"], metrics["resolution_fsc143_angstrom"]
    shown = "no resolution" if resolution is None else f"{resolution:.2f} Å"
    return "\n".join(
        [
            f"{metrics['n_particles']} particles, box {metrics['box_size']} px at "
            f"{metrics['pixel_size_angstrom']:.4g} Å, symmetry {metrics['symmetry']}",
            f"{shown} by the half maps (FSC 0.143), {metrics['wall_seconds']:.0f} s on {metrics['device']}",
            f"maps       {output}/volume.mrc, volume_sharpened.mrc",
            f"half maps  {output}/half1.mrc, half2.mrc; error of their mean  {output}/standard_error.mrc",
            f"poses      {output}/particles.star",
            f"report     {output}/report.html",
            *(f"! {finding}" for finding in metrics["findings"]),
        ]
    )


def _keep_maps(folder: RunFolder, particles: Particles, halves: Halves) -> None:
    """Write the half maps so far, and their mean."""
    for path, state in zip(folder.halves, halves.states, strict=True):
        write_map(path, *full_volume(state, particles, state.candidates[0].unfiltered))
    write_map(folder.volume, *full_volume(halves.states[0], particles, halves.volume))


def _standard_error(
    halves: Halves, first: Map, second: Map, pixel: float, findings: Findings
) -> StandardError:
    """Standard error of the mean of the half maps at its resolution, or at Nyquist's where it has none."""
    state = halves.states[0]
    # Densities have the unit of the sampling that they are given at.
    variance = refine.noise_of_mean(halves) * (pixel * len(state.mask) / state.extent) ** 2
    resolution = findings.correlation.resolution() or 2.0 * pixel
    return standard_error(first, second, pixel, resolution, variance, state.extent, state.symmetry)


def _write_maps(folder: RunFolder, findings: Findings, error: StandardError, pixel: float) -> None:
    """Write what the half maps say, besides themselves."""
    write_map(folder.path / "volume_sharpened.mrc", findings.sharpened.density, pixel)
    write_map(folder.mask, findings.mask.values, pixel)
    write_map(folder.path / "local_resolution.mrc", findings.local_resolution, pixel)
    write_map(folder.path / "standard_error.mrc", error.values, pixel)
    found = findings.correlation
    write_fsc_star(
        folder.path / "fsc.star",
        found.extent,
        # The one that the resolution is read from, corrected or unmasked.
        corrected=found.correlation,
        unmasked=found.unmasked,
        masked=found.masked,
        randomised=found.randomised,
        resolution=found.resolution(),
        b_factor=findings.sharpened.guinier.b_factor,
        randomised_from=found.randomised_from,
    )
    write_text(folder.path / "anisotropy.json", json.dumps(_anisotropy(findings), indent=2) + "\n")
    title = "Half maps, without a mask" if found.mask_too_tight else "Half maps, in the mask"
    write_fsc_xml(folder.path / "fsc.xml", found.extent, found.correlation, title)


def _anisotropy(findings: Findings) -> dict[str, Any]:
    """What anisotropy.json says: least, quartiles and largest correlation of the cones by shell, and more."""
    quartiles = np.quantile(findings.conical.values, [0.0, 0.25, 0.5, 0.75, 1.0], axis=0)
    return {
        "conical_fsc_quartiles": quartiles.round(5).tolist(),
        "conical_fsc_area_ratio": findings.conical.ratio,
        "worst_direction": findings.conical.worst.round(5).tolist(),
        "sampling_compensation_factor": findings.sampling.compensation,
    }


def _resolution(findings: Findings) -> dict[str, Any]:
    """What metrics.json says of the half maps."""
    found, guinier = findings.correlation, findings.sharpened.guinier
    inside = findings.local_resolution[findings.mask.values > 0.5]
    return {
        "resolution_fsc143_angstrom": found.resolution(),
        "resolution_fsc05_angstrom": found.resolution(0.5),
        "mask_too_tight": bool(found.mask_too_tight),
        "b_factor_angstrom2": guinier.b_factor,
        "b_factor_missing": guinier.no_fit,
        "local_resolution_quartiles_angstrom": np.quantile(inside, [0.25, 0.5, 0.75]).round(2).tolist(),
        "conical_fsc_area_ratio": findings.conical.ratio,
        "sampling_compensation_factor": findings.sampling.compensation,
    }


def _shared(config: Refine | Reconstruct, halves: Halves) -> dict[str, Any]:
    """What metrics.json says of all that the half-sets have in common while they are refined."""
    state = halves.states[0]
    joint = "of all particles" if isinstance(config, Reconstruct) else "given"
    apart = config.independent_halves if isinstance(config, Reconstruct) else config.second_volume is not None
    return {
        "start_map": "own" if apart else joint,
        "start_resolution_angstrom": state.extent / halves.start_radius,
        "start_radius": halves.start_radius,
        "mask": "sphere" if config.mask is None else str(config.mask),
        "mask_diameter_angstrom": config.particle_diameter or 0.9 * state.extent,
        "curves": sum(row["stage"] == "refine" for row in halves.history),
        "shells": len(halves.correlation),
        "symmetry": state.symmetry,
        "symmetry_found": config.symmetry == "auto",
        "poses_of_the_file": isinstance(config, Refine) and config.seeded,
    }


def _noise(findings: Findings, error: StandardError) -> dict[str, Any]:
    """What metrics.json says of the standard error."""
    inside = findings.mask.values > 0.5
    return {"error_over_expected": float(np.sqrt(np.median(error.excess[inside])))}
