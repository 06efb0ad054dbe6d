"""What a person who knows cryo-EM would object to."""

from collections.abc import Iterator
from typing import Any

from cryograd.data.shared_noise import APART
from cryograd.inspection.given import of_contrast, of_ctf, of_headers

# Gaps in the directions that are wider than chance leaves them, in degrees.
_GAP = 10.0
# Share of the slices of uniform views that a twentieth of the directions may fall short of.
_UNEVEN = 0.5
_REMOVE = "remove duplicates (--write-clean)"


def findings(facts: dict[str, Any]) -> list[str]:
    """Sentences about what looks wrong, and what to do, from the facts of `inspect`."""
    return [
        *_of_optics(facts),
        *(objection.finding.text for objection in of_headers(facts["contradicting_headers"])),
        *_of_metadata(facts),
        *_of_images(facts["images"], facts["inverted"]),
        *(objection.finding.text for objection in of_ctf(facts["ctf"])),
        *(of_conditioning(facts["conditioning"]) if facts.get("conditioning") else ()),
    ]


def _of_optics(facts: dict[str, Any]) -> Iterator[str]:
    for group in facts["optics_groups"]:
        name = f"optics group {group['name']}"
        if group["premultiplied"]:
            yield (
                f"{name}: the images are multiplied by their CTF, which is not supported; extract them "
                "without premultiplication"
            )
        if group["phase_flipped"]:
            yield f"{name}: the images are phase-flipped, which is taken into account"
        if not 40.0 <= group["voltage_kv"] <= 1000.0:
            yield f"{name}: {group['voltage_kv']:g} kV is not a microscope's voltage"
        if not 0.2 <= group["pixel_size"] <= 15.0:
            yield f"{name}: a pixel size of {group['pixel_size']:g} Å is unusual; is it in Å?"
    sizes = {(group["box_size"], group["pixel_size"]) for group in facts["optics_groups"]}
    if len(sizes) > 1:
        yield "optics groups differ in box or pixel size; they are brought to one sampling"


def _of_metadata(facts: dict[str, Any]) -> Iterator[str]:
    defocus = facts["defocus"]
    if defocus["not_positive"]:
        yield f"{defocus['not_positive']} particles have no underfocus, which is positive"
    if defocus["median"] > 0.0 and defocus["max"] < 100.0:
        yield "the defocus is below 100 Å throughout; is it in µm instead of Å?"
    if defocus["outliers"]:
        yield f"the defocus of {defocus['outliers']} particles is far from all others; check or remove them"
    if defocus["astigmatism_median"] > 0.1 * max(defocus["median"], 1.0):
        yield f"the astigmatism is large, {defocus['astigmatism_median']:.0f} Å in the median"
    if facts["duplicates"]:
        yield f"{facts['duplicates']} particles have the same image as another; {_REMOVE}"
    if facts["picked_twice"]:
        yield (
            f"{facts['picked_twice']} particles were picked within {APART:g} Å of another on the same "
            f"micrograph: they share its noise, and half-sets keep them together; {_REMOVE}"
        )
    halves = facts["half_sets"]
    if halves is not None and set(halves) != {"1", "2"}:
        yield f"the half-sets are {', '.join(halves)} instead of 1 and 2"
    elif halves is not None and min(halves.values()) < 0.4 * sum(halves.values()):
        yield f"the half-sets are uneven: {halves['1']} and {halves['2']} particles"


def _of_images(images: dict[str, Any], inverted: bool) -> Iterator[str]:
    if images["broken"]:
        first = images["broken_images"][0]
        yield (
            f"{images['broken']} images cannot be used, such as {first['image']}: {first['what']}; remove "
            "them or extract them again (--json and the page list all)"
        )
    if images["alike"]:
        yield (
            f"{images['alike']} images have the noise of another one of another name: half-sets do not keep "
            f"them together, and would correlate by it; {_REMOVE}"
        )
    if images["at_edge"]:
        yield (
            f"{images['at_edge']} images reach over the edge of their micrograph and were filled up "
            "there; consider removing them"
        )
    if not images["sampled"]:
        return
    if images["hot"]:
        yield (
            "images with hot pixels, which are replaced by what is around when images are read: "
            f"{images['hot']}; check the gain reference and the defect map"
        )
    if images["masked"]:
        yield (
            f"{images['masked']} of {images['sampled']} sampled images have no noise outside the particle; "
            "give images that are not masked"
        )
    yield from (objection.finding.text for objection in of_contrast(images, inverted))
    if images["contrast"] == "unclear":
        yield "the contrast is unclear: the particles are neither brighter nor darker than the background"
    if not images["normalised"]:
        yield (
            f"the background has mean {images['background_mean']:.3g} and standard deviation "
            f"{images['background_std']:.3g} instead of 0 and 1; images are normalised when they are read"
        )


def of_conditioning(facts: dict[str, Any]) -> Iterator[str]:
    """Objections to the distribution of views, from the facts of `cryograd.inspection.conditioning`."""
    views, starved = facts["views"], facts["shells"]["starved_shells"]
    if views["gap_degrees"] >= _GAP:
        centre = views["gap_direction"]
        yield (
            f"directions within {views['gap_degrees']:.0f}° of rot {centre['rot']:.0f}°, tilt "
            f"{centre['tilt']:.0f}° are missing, {100 * views['missing']:.0f} % of all Fourier directions: "
            "no image's slice passes there; "
            + ("give --symmetry if the molecule has any, else " if facts["symmetry"] == "C1" else "")
            + "collect other views, as with a tilted stage"
        )
    elif views["percentile5"] < _UNEVEN:
        yield (
            "the views are uneven: a twentieth of the Fourier directions is seen by less than "
            f"{max(views['percentile5'], 0.01):.2g} of the slices that uniform views would give"
        )
    if starved:
        resolution = facts["shells"]["resolution"]
        yield (
            f"{len(starved)} of {len(resolution)} shells, from {resolution[starved[0] - 1]:.3g} Å to "
            f"{resolution[starved[-1] - 1]:.3g} Å, have voxels that hardly any slice reaches; expect the map "
            "to be distorted there"
        )
