"""Plots of a run's course, its poses and its time, each as SVG."""

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cryograd.fourier import HalfDisc
from cryograd.model.symmetry import group_matrices
from cryograd.report.load import Poses
from cryograd.report.style import ACCENT, INK, MUTED, SEQUENTIAL, WARM, as_svg, new_figure
from cryograd.rotations import FloatArray


def course(log: list[dict[str, Any]]) -> str:
    """Resolution, log evidence and certainty of the orientations by iteration."""
    figure = new_figure(9.0, 5.2)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.0, 1.3, 1.0))
    resolution, evidence, entropy = panels
    # A run's engines count from one each.
    iteration = list(range(1, len(log) + 1))
    resolution.step(iteration, [row["resolution"] for row in log], where="post", color=ACCENT)
    resolution.set_ylabel("resolution (Å)")
    resolution.invert_yaxis()
    # The evidence of a coefficient: that of an image falls with every coefficient that is added.
    per_coefficient = [row["log_evidence"] / len(HalfDisc(row["radius"])) for row in log]
    _dots_and_mean(evidence, iteration, per_coefficient)
    evidence.set_ylabel("log evidence")
    evidence.ticklabel_format(axis="y", useOffset=False)
    _dots_and_mean(entropy, iteration, [row["entropy"] for row in log])
    entropy.set_ylabel("entropy (nats)")
    entropy.set_ylim(bottom=0.0)
    entropy.set_xlabel("iteration")
    for axes in panels:
        _mark_stages(axes, log)
    figure.align_ylabels(panels)
    return as_svg(figure, "course")


def _dots_and_mean(axes: Axes, iteration: list[int], values: list[float]) -> None:
    """Values of minibatches as dots, and their running mean."""
    series = np.array(values, dtype=np.float64)
    axes.plot(iteration, series, ".", ms=3.5, color=ACCENT, alpha=0.45, mew=0)
    axes.plot(iteration, _smooth(series, max(1, len(series) // 60)), color=INK, lw=1.2)


def _smooth(values: FloatArray, width: int) -> FloatArray:
    """Running mean whose window shrinks at the ends."""
    width = min(width, (len(values) - 1) // 2)
    kernel = np.ones(2 * width + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _mark_stages(axes: Axes, log: list[dict[str, Any]]) -> None:
    """Vertical line where a stage of the run begins."""
    for iteration, (before, row) in enumerate(pairwise(log), start=2):
        if before["stage"] != row["stage"]:
            axes.axvline(iteration, color=MUTED, lw=0.7, ls=":")


def fourier_shells(comparison: dict[str, Any]) -> str:
    """Fourier shell correlation of two maps."""
    figure = new_figure(9.0, 2.6)
    axes = figure.subplots()
    for level in (0.5, 0.143):
        axes.axhline(level, color=MUTED, lw=0.7, ls=":")
    axes.axhline(0.0, color=MUTED, lw=0.7)
    axes.plot(comparison["frequencies"], comparison["fsc"], color=ACCENT)
    axes.set(
        xlabel="spatial frequency (1/Å)", ylabel="correlation", ylim=(-0.15, 1.03), yticks=(0.0, 0.5, 1.0)
    )
    axes.set_xlim(0.0, comparison["frequencies"][-1])
    return as_svg(figure, "fsc")


def view_density(rotations: FloatArray, symmetry: str, longitudes: int) -> FloatArray:
    """Density of viewing directions relative to uniform ones, with all their equivalents.

    Parameters
    ----------
    rotations
        Matrices (n, 3, 3).
    symmetry
        Point group whose elements turn each direction into its equivalents.
    longitudes
        Bins around the equator.

    Returns
    -------
    FloatArray
        Shape (longitudes // 2, longitudes): bins of equal area, from the south pole up and from −180° on.
    """
    directions = np.einsum("gij,nj->gni", group_matrices(symmetry), rotations[:, 2]).reshape(-1, 3)
    longitude = np.arctan2(directions[:, 1], directions[:, 0])
    bins = (longitudes // 2, longitudes)
    counts, _, _ = np.histogram2d(directions[:, 2], longitude, bins, range=((-1.0, 1.0), (-np.pi, np.pi)))
    return counts / counts.mean()


def views(poses: Poses, symmetry: str) -> str:
    """Viewing directions on the sphere, in an equal-area projection."""
    n = len(poses.rotations) * len(group_matrices(symmetry))
    # About ten views a bin, so that what is seen is not mostly chance.
    density = view_density(poses.rotations, symmetry, int(np.clip(np.sqrt(2.0 * n / 10.0), 12, 48)) // 2 * 2)
    figure = new_figure(5.4, 3.1)
    axes = figure.add_subplot(projection="mollweide")
    latitude = np.arcsin(np.linspace(-1.0, 1.0, density.shape[0] + 1))
    longitude = np.linspace(-np.pi, np.pi, density.shape[1] + 1)
    mesh = axes.pcolormesh(longitude, latitude, density, cmap=SEQUENTIAL, vmin=0.0, rasterized=True)
    axes.grid(color=MUTED, lw=0.3, alpha=0.5)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    figure.colorbar(mesh, ax=axes, shrink=0.7, label="views relative to uniform")
    return as_svg(figure, "views")


def shifts(poses: Poses, limit: float | None) -> str:
    """Offsets of the particles from their image centres."""
    figure = new_figure(3.9, 3.1)
    axes = figure.subplots()
    x, y = poses.shifts.T
    reach = max(float(np.abs(poses.shifts).max()), limit or 0.0, 1.0) * 1.05
    bins = np.linspace(-reach, reach, int(np.clip(np.sqrt(len(x)) / 1.5, 12, 40)) + 1)
    counts, _, _ = np.histogram2d(x, y, (bins, bins))
    image = np.ma.masked_equal(counts.T, 0.0)
    mesh = axes.pcolormesh(bins, bins, image, cmap=SEQUENTIAL, vmin=0.0, rasterized=True)
    if limit is not None:
        circle = np.linspace(0.0, 2.0 * np.pi, 181)
        axes.plot(limit * np.cos(circle), limit * np.sin(circle), color=WARM, lw=0.8, ls="--")
    axes.set(aspect="equal", xlabel="x offset (Å)", ylabel="y offset (Å)")
    figure.colorbar(mesh, ax=axes, label="particles", shrink=0.85)
    return as_svg(figure, "shifts")


def certainty(poses: Poses) -> str:
    """How sure the orientations are: entropy, and probability of the best."""
    figure = new_figure(9.0, 2.5)
    left, right = figure.subplots(1, 2, sharey=True)
    if poses.entropy is not None:
        left.hist(poses.entropy, 50, color=ACCENT)
        left.set(xlabel="entropy of the orientations (nats)", ylabel="particles")
        left.axvline(float(np.median(poses.entropy)), color=WARM, lw=1.0)
    if poses.max_probability is not None:
        right.hist(poses.max_probability, 50, range=(0.0, 1.0), color=ACCENT)
        right.set(xlabel="probability of the best orientation")
        right.axvline(float(np.median(poses.max_probability)), color=WARM, lw=1.0)
    return as_svg(figure, "certainty")


def stage_times(log: list[dict[str, Any]]) -> str:
    """Seconds that each stage of the computation took in all."""
    totals: dict[str, float] = {}
    for row in log:
        for stage, seconds in row["seconds"].items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    names = sorted(totals, key=lambda name: totals[name])
    figure = new_figure(9.0, 0.6 + 0.3 * len(names))
    axes = figure.subplots()
    bars = axes.barh(names, [totals[name] for name in names], color=ACCENT, height=0.6)
    axes.bar_label(bars, fmt="%.1f s", padding=4, color=INK, fontsize=9)
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("seconds")
    return as_svg(figure, "times")
