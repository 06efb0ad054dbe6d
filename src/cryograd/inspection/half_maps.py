"""What speaks against a run, by what it has measured of itself."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryograd.inspection.finding import Finding

# Mean probability of the best orientations below which the images hardly tell them, and the half maps may
# agree on what all orientations share. Three wrong maps, of 200 images of a membrane protein and 400 of
# ferritin, had 0.004 to 0.026. Right maps mostly have 0.06 to 0.8; but one of ferritin had 0.005, and one of
# 40 images 0.017.
UNTOLD = 0.03
# Median standard error over the one that images at known poses would have, from which on poses are wrong or
# images share errors. Right maps had 0.9 to 1.1, wrong ones of the membrane protein 2.0.
UNEXPECTED = 1.5
# Shells from which on, and share below which, unevenness of the cones is worth a remark: with few shells the
# least of all cones is mostly chance.
EVEN_SHELLS, UNEVEN = 15.0, 0.5
# Sampling compensation factor below which views are missing, and below which no resolution is that of all
# directions. Uniform views have 1, side views 0.83, the ribosome and β-galactosidase of the benchmarks 0.83
# and 0.92. Of three preferred views it is 0.44; one preferred view, whose map claimed 8.8 Å where the truth
# was 15.8 Å, had 0.34.
SPARSE, STARVED = 0.6, 0.4
# Median local resolution over the one of the whole map, below which parts cannot be trusted: half maps that
# agree everywhere agree in all. Right maps had 0.84 to 1.09, and wrong ones of ferritin 0.34 to 0.72.
FINER = 0.8
# Images below which nothing is known well enough. The widths of shifts and scales, by which junk is told,
# come from one half-set: of 25 images they are known to a seventh. Symmetry does not help: each image still
# has one pose, whose error is in all its copies. Of 20 in D7 a map claimed 14 Å where the truth was 17.
FEW = 50


def of_empty(maps: Sequence[NDArray[np.float32]]) -> Iterator[Finding]:
    """What to do about maps (L, L, L) of classes, or one of all images, that have no density."""
    for number in (number for number, density in enumerate(maps, 1) if not density.any()):
        yield Finding(
            "map_empty",
            f"the map{f' of class {number}' if len(maps) > 1 else ''} is empty: the prior, or the other "
            "classes, were stronger than what its images say; give --prior none, a coarser --max-resolution, "
            "or more particles",
            doubts=True,
        )


def of_poses(metrics: dict[str, Any]) -> Iterator[Finding]:
    """What the poses and picks of a refinement say of all its maps, from its metrics."""
    if metrics["max_probability_mean"] < UNTOLD:
        yield Finding(
            "orientations_not_told",
            "the images hardly tell their orientations, of which the best has a probability of "
            f"{metrics['max_probability_mean']:.1%} in the mean: the half maps may agree on what all of them "
            "share, and their resolution may not be that of the molecule; compare the map with that of "
            "another --seed, and begin a small or hollow molecule at a finer --start-resolution",
            doubts=True,
        )
    if metrics["n_strange"]:
        yield Finding(
            "strange_images",
            f"images with a power that no particle has, as of beads or dirt: {metrics['n_strange']:,}; they "
            "count in no map and have a cryogradJunkProbability of 1; look at them, and leave them out with "
            "cryograd select --max-junk 0.5",
        )
    if metrics["n_junk"]:
        picks = "pick is" if metrics["n_junk"] == 1 else "picks are"
        yield Finding(
            "junk",
            f"{metrics['n_junk']:,} {picks} probably not of the particle, by scale or by place in the image "
            "(cryogradJunkProbability above 0.5): each counts in the map as much as its half-set tells that "
            "it belongs",
        )


def of_class(figures: dict[str, Any], particles: float, extent: float, number: int | None) -> list[Finding]:
    """What the half maps of one class say.

    Parameters
    ----------
    figures
        What `metrics.json` says of the class.
    particles
        How many it has.
    extent
        Side of the box in Å.
    number
        Of the class, from 1; None where there are no others.
    """
    if number is None:
        return list(_of_half_maps(figures, particles, extent))
    if figures["share"] == 0.0:
        text = f"class {number}: it has no particles, and its map means nothing; give fewer --classes"
        return [Finding("class_empty", text, doubts=True)]
    found = _of_half_maps(figures, particles, extent)
    return [replace(finding, text=f"class {number}: {finding.text}") for finding in found]


def _of_half_maps(figures: dict[str, Any], particles: float, extent: float) -> Iterator[Finding]:
    """What half maps of so many particles say; side of the box in Å."""
    resolution = figures["resolution_fsc143_angstrom"]
    if resolution is None:
        text = "the half maps agree at no resolution: nothing that they show can be believed"
        yield Finding("no_resolution", text, doubts=True)
        return
    if figures["error_over_expected"] > UNEXPECTED:
        yield Finding(
            "half_maps_differ",
            f"the half maps differ {figures['error_over_expected']:.2g} times as much as images at known "
            "poses would leave them: many orientations are wrong, or images share errors; compare the map "
            "with that of another --seed",
            doubts=True,
        )
    if particles < FEW:
        yield Finding(
            "few_particles",
            f"so few particles: of {particles:.0f} neither junk nor the correlation of the half maps is "
            f"known well, and the resolution may be much worse; give {FEW} or more",
            doubts=True,
        )
    yield from _of_parts(figures, resolution)
    yield from _of_directions(figures, extent / resolution)
    if figures["mask_too_tight"]:
        text = "the mask makes correlation of its own; the resolution is that of the half maps without it"
        yield Finding("mask_adds_correlation", text)
    if figures["resolution_is_bound"]:
        yield Finding(
            "at_limit",
            f"the half maps agree up to {resolution:.3g} Å, the finest that was looked at: the resolution "
            "may be better, as smaller pixels or a finer --max-resolution would tell",
        )


def _of_parts(figures: dict[str, Any], resolution: float) -> Iterator[Finding]:
    """Whether the parts of a map agree with the whole, where neither limit nor mask hides the whole's."""
    middle = figures["local_resolution_quartiles_angstrom"][1]
    if figures["resolution_is_bound"] or figures["mask_too_tight"] or middle >= FINER * resolution:
        return
    yield Finding(
        "local_finer",
        f"the local resolution is finer than {middle:.3g} Å in half of the molecule, and that of all of it "
        f"is {resolution:.3g} Å: the half maps share errors that are no detail; compare the map with that of "
        "another --seed",
        doubts=True,
    )


def _of_directions(figures: dict[str, Any], shells: float) -> Iterator[Finding]:
    """Whether all directions are seen and resolved alike, up to so many resolved shells."""
    if shells < EVEN_SHELLS:
        return
    factor, scarce = figures["sampling_compensation_factor"], figures["scarce_directions"]
    if factor < SPARSE:
        yield Finding(
            "views_uneven",
            f"{scarce['share']:.0%} of the Fourier directions are hardly seen by any image, the largest gap "
            f"within {scarce['degrees']:.0f}° of rot {scarce['rot']:.0f}°, tilt {scarce['tilt']:.0f}° "
            f"(sampling compensation factor {factor:.2f}): along them the map is worse than its resolution "
            "says; collect other views, as with a tilted stage",
            doubts=factor < STARVED,
        )
    if figures["conical_fsc_area_ratio"] < UNEVEN:
        yield Finding(
            "resolution_uneven",
            "the resolution differs with the direction: along the worst one the correlation of the half maps "
            f"is {figures['conical_fsc_area_ratio']:.0%} of what it is along the best",
        )
