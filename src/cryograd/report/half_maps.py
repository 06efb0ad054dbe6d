"""What a report shows of two half maps: their correlation, by place and by direction."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cryograd.data.mrc import read_map
from cryograd.data.star import read_star
from cryograd.errors import CryogradError
from cryograd.report.records import Anisotropy, parsed
from cryograd.report.style import ACCENT, INK, MUTED, WARM, as_svg, new_figure
from cryograd.rotations import FloatArray

# Curves of fsc.star by what they are called, and their looks.
_CURVES = {
    "rlnFourierShellCorrelationUnmaskedMaps": ("unmasked", {"color": MUTED, "lw": 1.0}),
    "rlnFourierShellCorrelationMaskedMaps": ("in the mask", {"color": ACCENT, "lw": 1.0}),
    "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": (
        "in the mask, random phases",
        {"color": WARM, "lw": 1.0},
    ),
    "rlnFourierShellCorrelationCorrected": ("corrected", {"color": INK, "lw": 1.8}),
}


@dataclass(frozen=True)
class HalfMapFiles:
    """What a finished refinement left of its half maps.

    Parameters
    ----------
    frequency
        1/Å of each shell, shape (n,).
    curves
        Correlations by column of fsc.star, shape (n,) each.
    local_resolution, standard_error, mask
        Å, density, and 0 to 1: maps (L, L, L).
    anisotropy
        anisotropy.json.
    """

    frequency: FloatArray
    curves: dict[str, FloatArray]
    local_resolution: NDArray[np.float32]
    standard_error: NDArray[np.float32]
    mask: NDArray[np.float32]
    anisotropy: dict[str, Any]


def load_half_maps(folder: Path) -> HalfMapFiles | None:
    """Read what a run says of its half maps; None where it has none or is not finished."""
    names = ("fsc.star", "local_resolution.mrc", "standard_error.mrc", "mask.mrc", "anisotropy.json")
    paths = [folder / name for name in names]
    if not all(path.is_file() for path in paths):
        return None
    table = read_star(paths[0]).get("fsc")
    curves = {name: finite_column(table, name, paths[0]) for name in (*_CURVES, "rlnResolution")}
    frequency = curves.pop("rlnResolution")
    local, error, mask = (read_map(path)[0] for path in paths[1:4])
    if not len(local) == len(error) == len(mask):
        raise CryogradError("the maps of the folder differ in size", folder, "restore its files")
    if not (mask > 0.5).any():
        raise CryogradError("the mask is empty", paths[3], "restore the file")
    anisotropy = parsed(paths[4], json.loads, Anisotropy)
    if len(anisotropy["conical_fsc_quartiles"][0]) > len(frequency):
        raise CryogradError("the curves are longer than those of fsc.star", paths[4], "restore the file")
    return HalfMapFiles(frequency, curves, local, error, mask, anisotropy)


def finite_column(table: Any, name: str, path: Path) -> FloatArray:
    """Numbers of a column of a table that was read from a file.

    Raises
    ------
    CryogradError
        There is no such column, or it holds something else.
    """
    try:
        values = table[name].to_numpy(dtype=np.float64)
    # What is no table has no columns either.
    except (KeyError, TypeError, ValueError, AttributeError):
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise CryogradError(f"the file has no column {name} of numbers", path, "restore the file")
    return values


def shared_rows(shared: dict[str, Any]) -> dict[str, str]:
    """What two half-sets share, in words, from what metrics.json says of it."""
    radius, cut_at = shared["start_radius"], shared["start_resolution_angstrom"]
    cut = f"up to {cut_at:.1f} Å ({radius:.1f} Fourier pixels, with an edge of two)"
    sphere = f"a sphere of {shared['mask_diameter_angstrom']:.0f} Å, with a soft edge"
    given = shared["mask"] != "sphere"
    start = {
        "given": f"the given one, {cut}",
        "of all particles": f"one of all particles, {cut}",
        "own": f"only its frame: each half has one of its own, {cut}",
    }
    return {
        "Start map": f"{start[shared['start_map']]}; each half scales it to its own images",
        "Scale of density": f"{shared['density_scale']:.3g}, of the starts, for priors that have a scale",
        "Point group": shared["symmetry"] + (", found in the start" if shared["symmetry_found"] else ""),
        "Mask of the maps while they are refined": f"the given one, {shared['mask']}" if given else sphere,
        "Correlation of the half maps": f"{shared['curves']} curves, one an iteration, of {shared['shells']} "
        "shells with six decimals: they open the resolution and weight the spectrum",
        "Poses of the particle file": "both search around their own particles' poses, which may come from a "
        "map of all particles"
        if shared["poses_of_the_file"]
        else "not used",
        "Mask of the final correlation": "the given one"
        if given
        else "made from the mean of both maps at the end; nothing is refined in it",
    }


def half_map_plots(files: HalfMapFiles) -> dict[str, Markup]:
    """The plots by name."""
    return {
        "fsc": Markup(shells(files)),
        "local": Markup(in_mask(files.local_resolution, files.mask, "local resolution", "Å", "viridis_r")),
        "error": Markup(in_mask(files.standard_error, files.mask, "standard error", "density", "magma")),
        "cones": Markup(cones(files)),
    }


def shells(files: HalfMapFiles) -> str:
    """Fourier shell correlations of the half maps."""
    figure = new_figure(9.0, 3.0)
    axes = figure.subplots()
    _frame(axes, files)
    for name, (label, look) in _CURVES.items():
        axes.plot(files.frequency, files.curves[name], label=label, **look)
    axes.legend(frameon=False)
    return as_svg(figure, "half-maps")


def cones(files: HalfMapFiles) -> str:
    """Spread of the correlations within cones."""
    figure = new_figure(9.0, 2.6)
    axes = figure.subplots()
    _frame(axes, files)
    low, quarter, median, three, high = np.array(files.anisotropy["conical_fsc_quartiles"])
    frequency = files.frequency[: len(median)]
    axes.fill_between(frequency, low, high, color=ACCENT, alpha=0.18, lw=0, label="all cones")
    axes.fill_between(frequency, quarter, three, color=ACCENT, alpha=0.35, lw=0, label="half of them")
    axes.plot(frequency, median, color=INK, label="median")
    axes.legend(frameon=False)
    return as_svg(figure, "cones")


def in_mask(
    values: NDArray[np.float32], mask: NDArray[np.float32], name: str, unit: str, colours: str
) -> str:
    """Central slices of a map in the mask, and its distribution."""
    figure = new_figure(9.0, 2.5)
    axes = figure.subplots(1, 4, width_ratios=(1.0, 1.0, 1.0, 1.2))
    inside = mask > 0.5
    low, high = np.quantile(values[inside], [0.02, 0.98])
    # A few percent are the estimate's own scatter.
    high = max(high, 1.2 * low)
    c = len(mask) // 2
    shown = np.ma.masked_where(~inside, values)
    planes = zip(axes, (shown[:, :, c], shown[:, c, :], shown[c]), "xyz", strict=False)
    for axis, plane, along in planes:
        axis.imshow(plane, cmap=matplotlib.colormaps[colours], vmin=low, vmax=high, origin="lower")
        axis.set(title=f"across {along}", xticks=[], yticks=[])
    figure.colorbar(axes[2].images[0], ax=axes[2], shrink=0.8, label=unit)
    axes[3].hist(values[inside], 40, range=(low, high), color=ACCENT)
    axes[3].axvline(float(np.median(values[inside])), color=WARM, lw=1.0)
    axes[3].set(xlabel=f"{name} ({unit})", ylabel="voxels", yticks=[])
    return as_svg(figure, name.replace(" ", "-"))


def _frame(axes: Axes, files: HalfMapFiles) -> None:
    """Thresholds and limits of a plot of correlations."""
    for level in (0.5, 0.143):
        axes.axhline(level, color=MUTED, lw=0.7, ls=":")
    axes.axhline(0.0, color=MUTED, lw=0.7)
    axes.set(
        xlabel="spatial frequency (1/Å)", ylabel="correlation", ylim=(-0.15, 1.03), yticks=(0.0, 0.5, 1.0)
    )
    axes.set_xlim(0.0, files.frequency[-1])
