"""Whether images are what their particle file says, before a run begins: contrast, defocus and CTF."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryograd.data.mrc import read_header
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.inspection.finding import Finding
from cryograd.inspection.images import contrast
from cryograd.inspection.metadata import contradicting_headers, mean_underfocus
from cryograd.inspection.sample import Sample
from cryograd.inspection.spectrum import thon_rings

# Correlation of Thon rings below which they do not fit the CTF, and of two halves of the images above which
# this is certain without a better defocus. Of 970 right subsets whose rings were seen none was below 0.5, and
# of those with clear rings none below 0.62.
_AGREES, _CLEAR = 0.3, 0.7
# Images from which on, part of the defocus and gain in correlation from which a better one is told: the right
# pixel size gains 0.07 to 0.17 over one that is 2 % larger on three real sets, and nothing gains over it.
_MANY, _OFF, _GAIN = 300, 0.03, 0.04
# Å of defocus that no microscope is used at: numbers so small are µm.
_LEAST_DEFOCUS = 100.0


@dataclass(frozen=True)
class Objection:
    """What the images or their defocus say against the particle file.

    Parameters
    ----------
    key
        As that of a `Finding`.
    what
        What is wrong.
    remedy
        What to do about it.
    certain
        Whether a run had better not begin.
    doubts
        Whether it speaks against whatever a run comes to.
    """

    key: str
    what: str
    remedy: str
    certain: bool = True
    doubts: bool = True

    @property
    def finding(self) -> Finding:
        """The same as a finding."""
        return Finding(self.key, f"{self.what}; {self.remedy}", self.doubts)


def objections(particles: Particles, sample: Sample) -> list[Objection]:
    """What speaks against images being what their file says.

    Parameters
    ----------
    particles
        Particles with images.
    sample
        Those of them that were measured. Images that cannot be used are another matter.
    """
    return [
        *of_contrast(contrast(sample.brightness), particles.invert_contrast),
        *of_underfocus(particles),
        *of_headers(contradicting_headers(particles, [read_header(path) for path in particles.stacks])),
        *of_ctf([kind.facts for kind in thon_rings(particles, sample)]),
    ]


def refuse(found: Sequence[Objection], particles: Particles) -> None:
    """Refuse particles that their images contradict.

    Raises
    ------
    CryogradError
        One of the objections is certain.
    """
    for objection in found:
        if objection.certain:
            remedy = f"{objection.remedy}; --force reconstructs all the same"
            raise CryogradError(objection.what, particles.source, remedy)


def of_contrast(facts: dict[str, Any], inverted: bool) -> Iterator[Objection]:
    """Dark protein, from what `contrast` says, and whether images were inverted when they were read."""
    if facts["contrast"] == "dark":
        remedy = "leave out --invert-contrast" if inverted else "add --invert-contrast"
        yield Objection("contrast_inverted", "the protein is dark in the images", remedy)


def of_underfocus(particles: Particles) -> Iterator[Objection]:
    """Defocus that most particles cannot have been taken at.

    With a phase plate images are taken in focus, too, and with it nothing is said.
    """
    defocus = mean_underfocus(particles)[particles.phase_shift == 0.0]
    wrong = np.count_nonzero(defocus <= 0.0)
    if 2 * wrong > len(particles):
        yield Objection(
            "defocus_not_positive",
            f"{wrong} of {len(particles)} particles have no underfocus, which is positive",
            "change the sign of rlnDefocusU and rlnDefocusV, or fill them in",
        )
    elif len(defocus) == len(particles) and 0.0 < np.max(defocus) < _LEAST_DEFOCUS:
        yield Objection(
            "defocus_unit",
            f"the defocus is at most {np.max(defocus):.3g} Å, as if it were in µm",
            "give rlnDefocusU and rlnDefocusV in Å",
        )


def of_headers(stacks: Sequence[dict[str, Any]]) -> Iterator[Objection]:
    """Pixel sizes of stacks that contradict the particle file, as `contradicting_headers` lists them."""
    for found in stacks:
        yield Objection(
            "pixel_size_contradicted",
            f"{found['stacks']} stack headers such as that of {found['first']} say {found['header']:.4g} Å "
            f"per pixel, and the particle file {found['file']:.4g} Å",
            "give --pixel-size if the file is wrong",
            certain=False,
            doubts=False,
        )


def of_ctf(kinds: Sequence[dict[str, Any]]) -> Iterator[Objection]:
    """CTFs that do not fit, from the facts of each kind of optics."""
    for rings in kinds:
        found, best, factor = rings["agreement"], rings["best_agreement"], rings["best_factor"]
        if not rings["visible"]:
            continue
        what = f"the Thon rings do not fit the CTF (correlation {found:.2f})"
        if abs(factor - 1.0) > 0.1 and best > max(found + 0.3, 0.5):
            what += f", but would if the defocus were {factor:.2f} times as large ({best:.2f})"
            yield Objection("ctf_contradicted", what, "check defocus and pixel size")
        elif found < _AGREES:
            remedy = "check defocus, voltage and pixel size"
            yield Objection("ctf_contradicted", what, remedy, certain=rings["reliability"] > _CLEAR)
        elif rings["images"] >= _MANY and abs(factor - 1.0) > _OFF and best > found + _GAIN:
            size = 100.0 * (factor**0.5 - 1.0)
            wrong = f"about {abs(size):.0f} % too {'large' if size > 0.0 else 'small'}"
            yield Objection(
                "ctf_slightly_off",
                f"the Thon rings fit the CTF (correlation {found:.2f}), but better ({best:.2f}) with a "
                f"defocus {factor:.2f} times as large, as where the pixel size is {wrong}",
                "check pixel size and defocus",
                certain=False,
                doubts=False,
            )
