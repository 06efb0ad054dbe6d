"""What a run finds in its images or in itself: evidence and remedy, and whether its claim can be believed."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

# Why a claim is not believed, in as few words as stand beside it.
REASONS = {
    "contrast_inverted": "the protein is dark in the images",
    "defocus_not_positive": "the defocus has the wrong sign or is missing",
    "defocus_unit": "the defocus is not in Å",
    "ctf_contradicted": "the images contradict their CTFs",
    "orientations_not_told": "the images hardly tell their orientations",
    "half_maps_differ": "the half maps differ too much",
    "local_finer": "the local resolution is much finer",
    "few_particles": "too few particles",
    "views_uneven": "views are missing",
    "no_resolution": "the half maps agree nowhere",
    "map_empty": "the map is empty",
    "class_empty": "the class is empty",
}


@dataclass(frozen=True)
class Finding:
    """Something that a run says of itself.

    Parameters
    ----------
    key
        Short name that does not change from version to version.
    text
        The evidence and what to do about it, without a capital and a full stop.
    doubts
        Whether it speaks against the claimed resolution being the molecule's.
    """

    key: str
    text: str
    doubts: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The finding as metrics.json has it."""
        return asdict(self)


def reason_against(found: Iterable[Finding]) -> str | None:
    """Why a claim of which all this was found is not believed, in a few words; None where it may be."""
    reasons = [REASONS[finding.key] for finding in found if finding.doubts]
    return ", ".join(dict.fromkeys(reasons)) or None
