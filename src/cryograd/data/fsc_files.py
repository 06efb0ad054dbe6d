"""Fourier shell correlations of half maps as RELION and EMDB take them."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cryograd.atomic import replacing
from cryograd.data.star import write_star

# What RELION writes for the resolution of the origin, in Å, and where there is none.
_NO_RESOLUTION = 999.0


def write_fsc_star(
    path: Path,
    extent: float,
    *,
    corrected: ArrayLike,
    unmasked: ArrayLike,
    masked: ArrayLike,
    randomised: ArrayLike,
    resolution: float | None,
    b_factor: float,
    randomised_from: int | None,
) -> None:
    """Write the correlations of two half maps as RELION's post-processing does.

    Parameters
    ----------
    path
        File to write; its folder is made.
    extent
        Side of the box in Å.
    corrected, unmasked, masked, randomised
        Correlation of shells 0, 1, ..., each of shape (n,).
    resolution
        Å; None where the maps agree nowhere.
    b_factor
        Å² of the amplitudes' fall-off that was undone, positive; RELION's sign is the opposite.
    randomised_from
        First shell with random phases, if any.
    """
    import pandas as pd

    general = {
        "rlnFinalResolution": _NO_RESOLUTION if resolution is None else round(resolution, 6),
        "rlnBfactorUsedForSharpening": 0.0 - round(b_factor, 6),
    }
    if randomised_from is not None:
        general["rlnRandomiseFrom"] = round(extent / randomised_from, 6)
    shells = np.arange(len(np.asarray(corrected)))
    spacing = np.divide(extent, shells, out=np.full(len(shells), _NO_RESOLUTION), where=shells > 0)
    columns = {
        "rlnResolution": 1.0 / spacing,
        "rlnAngstromResolution": spacing,
        "rlnFourierShellCorrelationCorrected": _from_one(corrected),
        "rlnFourierShellCorrelationUnmaskedMaps": _from_one(unmasked),
        "rlnFourierShellCorrelationMaskedMaps": _from_one(masked),
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": _from_one(randomised),
    }
    rounded = {name: values.round(6) for name, values in columns.items()}
    write_star(path, {"general": general, "fsc": pd.DataFrame({"rlnSpectralIndex": shells, **rounded})})


def write_fsc_xml(path: Path, extent: float, correlation: ArrayLike, title: str) -> None:
    """Write one correlation as EMDB's deposition system takes it.

    Parameters
    ----------
    path
        File to write; its folder is made.
    extent
        Side of the box in Å.
    correlation
        Of shells 0, 1, ..., shape (n,).
    title
        What it is of.
    """
    root = ElementTree.Element("fsc", title=title, xaxis="Resolution (A-1)", yaxis="Correlation Coefficient")
    for shell, value in enumerate(_from_one(correlation)):
        point = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(point, "x").text = f"{shell / extent:.6f}"
        ElementTree.SubElement(point, "y").text = f"{value:.6f}"
    ElementTree.indent(root)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _from_one(correlation: ArrayLike) -> NDArray[np.float64]:
    """A correlation that is 1 at the origin, where that of two maps is the sign of their means."""
    values = np.array(correlation, dtype=np.float64)
    values[0] = 1.0
    return values
