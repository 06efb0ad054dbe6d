"""Count how often the checks with which every run begins accuse right particles, and let wrong ones pass.

    python benchmarks/trust/false_alarms.py DATA [--subsets 200] [--json FILE]

DATA holds the three sets of real particles that SETS names. Of each, subsets of 20 to 200 particles are
drawn, at random and by whole micrographs, and checked as a run checks what it is given: as they are, which
must pass; and a quarter of them with each fault, which must be found. Every image is read once.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryograd.data.particles import Particles
from cryograd.data.read import read_particles
from cryograd.inspection.given import objections
from cryograd.inspection.sample import Sample, sampled

SETS = {
    "β-galactosidase": "bgal-10204/particles_clean_1268.star",
    "ribosome": "ribosome-10028/particles_853.star",
    "apoferritin": "apoferritin-10146/particles_2462.star",
}
FEWEST, MOST = 20, 200

Given = tuple[Particles, Sample]


def defocus_times(factor: float) -> Callable[[Particles, Sample], Given]:
    """The fault that all defocus values are so many times too large."""

    def wrong(particles: Particles, sample: Sample) -> Given:
        u, v = factor * particles.defocus_u, factor * particles.defocus_v
        return replace(particles, defocus_u=u, defocus_v=v), sample

    return wrong


def pixels_times(factor: float) -> Callable[[Particles, Sample], Given]:
    """The fault that pixels are said to be so many times too large."""

    def wrong(particles: Particles, sample: Sample) -> Given:
        optics = (replace(group, pixel_size=factor * group.pixel_size) for group in particles.optics)
        return replace(particles, optics=tuple(optics)), sample

    return wrong


def inverted(particles: Particles, sample: Sample) -> Given:
    """The fault that protein is dark: means change their sign."""
    return particles, replace(sample, brightness=sample.brightness * [-1.0, 1.0, -1.0, 1.0])


FAULTS: dict[str, Callable[[Particles, Sample], Given]] = {
    "right": lambda particles, sample: (particles, sample),
    "inverted contrast": inverted,
    "defocus of the wrong sign": defocus_times(-1.0),
    "defocus × 0.7": defocus_times(0.7),
    "defocus × 1.5": defocus_times(1.5),
    "pixel size × 1.2": pixels_times(1.2),
}


def at_random(particles: Particles, sample: Sample, rng: np.random.Generator) -> np.ndarray:
    """Some particles of the sample."""
    number = rng.integers(FEWEST, MOST + 1)
    return np.sort(rng.permutation(sample.members)[:number])


def by_micrograph(particles: Particles, sample: Sample, rng: np.random.Generator) -> np.ndarray:
    """Particles of the sample from as few micrographs as hold them."""
    names = particles.table["rlnMicrographName"].to_numpy(dtype=str)[sample.members]
    order = np.concatenate([np.flatnonzero(names == name) for name in rng.permutation(np.unique(names))])
    return np.sort(sample.members[order[: rng.integers(FEWEST, MOST + 1)]])


def counted(
    particles: Particles,
    sample: Sample,
    draw: Callable[[Particles, Sample, np.random.Generator], np.ndarray],
    subsets: int,
) -> Iterator[tuple[str, dict[str, int]]]:
    """For each fault: subsets, those that a run refuses, and those that it has a finding about."""
    for name, fault in FAULTS.items():
        number = subsets if name == "right" else subsets // 4
        rng, counts = np.random.default_rng(0), Counter({"subsets": number, "refused": 0, "found": 0})
        for _ in range(number):
            chosen = draw(particles, sample, rng)
            found = objections(*fault(particles.select(chosen), sample.within(chosen)))
            counts["refused"] += any(objection.certain for objection in found)
            counts["found"] += bool(found)
        yield name, dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--subsets", type=int, default=200)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for molecule in options.sets:
        particles = read_particles(options.data / SETS[molecule])
        sample = sampled(particles)
        for draw in (at_random, by_micrograph):
            for fault, counts in counted(particles, sample, draw, options.subsets):
                row = {"particles": molecule, "drawn": draw.__name__, "fault": fault}
                results.append(row | counts)
                print(*results[-1].values(), sep="\t", flush=True)
        whole = {name: bool(objections(*fault(particles, sample))) for name, fault in FAULTS.items()}
        print(molecule, "all particles: found", *(name for name, found in whole.items() if found), sep="\t")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
