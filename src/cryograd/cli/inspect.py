"""``cryograd inspect``: facts about a particle file, and what looks wrong."""

from typing import Any

from rich.console import Console
from rich.progress import Progress

from cryograd.config import Inspect
from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.inspection.clean import clean
from cryograd.inspection.conditioning import condition
from cryograd.inspection.findings import findings
from cryograd.inspection.images import ImageFacts, examine
from cryograd.inspection.metadata import describe
from cryograd.inspection.sample import sampled
from cryograd.inspection.spectrum import thon_rings
from cryograd.paths import check_output_file
from cryograd.selection.write import check_star_output, write_chosen

# Why particles are not in the clean file.
_FAULTS = {
    "broken": "with images that cannot be used",
    "not_positive": "without underfocus",
    "outliers": "with a defocus far from all others",
    "duplicates": "with the image of another",
    "same_noise": "with the noise of another",
}


def run(config: Inspect) -> dict[str, Any]:
    """Inspect a particle file, write the report if asked to, and return the facts."""
    if config.output is not None:
        check_output_file(config.output, config.particles, overwrite=config.overwrite)
    if config.write_clean is not None:
        check_star_output(config.write_clean, config.particles, overwrite=config.overwrite)
    particles = read_particles(
        config.particles, pixel_size=config.pixel_size, invert_contrast=config.invert_contrast
    )
    if config.symmetry != "C1" and not config.conditioning:
        raise CryogradError(
            "only the conditioning depends on the point group", "--symmetry", "add --conditioning"
        )
    conditioning = condition(particles, config.symmetry) if config.conditioning else None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images", total=len(particles))
        images = examine(particles, lambda done, n: bar.update(task, completed=done))
    rings = thon_rings(particles, sampled(particles, images.good))
    facts = describe(particles) | {
        "inverted": config.invert_contrast,
        "images": images.facts,
        "ctf": [kind.facts for kind in rings],
        "conditioning": None if conditioning is None else conditioning.facts,
    }
    facts["findings"] = findings(facts)
    facts["clean"] = None if config.write_clean is None else _write_clean(config, particles, images)
    if config.output is not None:
        from cryograd.report.inspection import write_inspection

        write_inspection(config.output, particles, facts, images, rings, conditioning)
    return facts


def _write_clean(config: Inspect, particles: Particles, images: ImageFacts) -> dict[str, Any]:
    """Write the particles without faults, and say how many were left out for what."""
    assert config.write_clean is not None
    rows, left_out = clean(particles, images)
    write_chosen(config.write_clean, config.particles, rows)
    return {"output": str(config.write_clean), "n_kept": len(rows), "left_out": left_out}


def summary(facts: dict[str, Any]) -> str:
    """The facts as text."""
    stacks = "one stack" if facts["stacks"] == 1 else f"{facts['stacks']} stacks"
    lines = [f"{facts['n_particles']} particles in {stacks} ({', '.join(facts['stack_types'])})"]
    lines += [_optics_line(group) for group in facts["optics_groups"]]
    d = facts["defocus"]
    lines.append(
        f"defocus {d['min']:.0f} to {d['max']:.0f} Å, median {d['median']:.0f}; "
        f"astigmatism {d['astigmatism_median']:.0f} Å"
    )
    halves = facts["half_sets"]
    lines.append(
        f"poses {'given' if facts['poses'] else 'not given'}; half-sets "
        + ("not given" if halves is None else " and ".join(map(str, halves.values())))
    )
    lines += _image_lines(facts["images"])
    lines += [
        f"Thon rings fit the CTF with correlation {rings['agreement']:.2f}"
        if rings["visible"]
        else "Thon rings are not seen, so the CTF could not be checked"
        for rings in facts["ctf"]
    ]
    if facts["conditioning"] is not None:
        lines += _conditioning_lines(facts["conditioning"])
    lines += ["", *([f"! {text}" for text in facts["findings"]] or ["nothing looks wrong"])]
    if facts["clean"] is not None:
        lines += ["", *_clean_lines(facts["clean"])]
    return "\n".join(lines)


def _clean_lines(facts: dict[str, Any]) -> list[str]:
    """How many particles are in the clean file, and what kept out the others."""
    counts = [f"{count} {_FAULTS[fault]}" for fault, count in facts["left_out"].items() if count]
    return [
        f"{facts['n_kept']} particles without such faults; left out are {', '.join(counts) or 'none'}",
        f"particles  {facts['output']}",
    ]


def _optics_line(group: dict[str, Any]) -> str:
    return (
        f"{group['name']}: {group['n_particles']} particles, {group['box_size']} px at "
        f"{group['pixel_size']:.4g} Å (Nyquist {group['nyquist']:.3g} Å), {group['voltage_kv']:.0f} kV, Cs "
        f"{group['spherical_aberration_mm']:.3g} mm, amplitude contrast {group['amplitude_contrast']:.3g}"
    )


def _image_lines(images: dict[str, Any]) -> list[str]:
    if not images["sampled"]:
        return []
    return [
        f"background mean {images['background_mean']:.3g}, standard deviation "
        f"{images['background_std']:.3g}; signal-to-noise ratio about {images['snr']:.2g}",
        f"protein {images['contrast']} ({images['contrast_sigma']:+.0f} standard errors)",
    ]


def _conditioning_lines(facts: dict[str, Any]) -> list[str]:
    """How fast a reconstruction at these poses converges, and what it misses."""
    shells, views = facts["shells"], facts["views"]
    limit = "" if facts["radius"] == facts["nyquist_radius"] - 2 else f" of {facts['nyquist_radius']}"
    lines = [
        f"poses and CTFs of {facts['images']} images, {facts['symmetry']}, up to {facts['radius']}{limit} "
        f"Fourier pixels ({facts['resolution']:.3g} Å), noise taken as even:"
    ]
    for shell in sorted({1, facts["radius"] // 4, facts["radius"] // 2, facts["radius"]} - {0}):
        row = {name: values[shell - 1] for name, values in shells.items() if name != "starved_shells"}
        lines.append(
            f"  {row['resolution']:.3g} Å: curvature {row['mean']:.2g} of the best shell's in the mean, "
            f"{row['least']:.2g} at least; {100 * row['starved']:.0f} % of voxels starved"
        )
    if facts["condition_number"] is None:
        lines.append(
            f"  {100 * facts['unreached']:.2g} % of the Fourier voxels are in no slice: no steps find them"
        )
    else:
        lines += [
            f"  condition number {facts['condition_number']:.3g}, after preconditioning by the "
            f"diagonal {facts['condition_number_preconditioned']:.3g}",
            f"  for an error 100 times smaller about {facts['steps_gradient']:.0f} gradient steps, "
            f"{facts['steps_preconditioned']:.0f} preconditioned ones, or {facts['steps_conjugate']:.0f} of "
            "preconditioned conjugate gradients",
        ]
    lines.append(
        f"  {100 * views['missing']:.2g} % of Fourier directions are missing; a twentieth has less than "
        f"{views['percentile5']:.2g} of the slices of uniform views"
    )
    return lines
