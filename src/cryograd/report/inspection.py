"""The page of ``cryograd inspect``: facts, findings, example images, defocus and Thon rings."""

from pathlib import Path
from typing import Any

import healpix
import numpy as np
from markupsafe import Markup

from cryograd.atomic import write_text
from cryograd.data.particles import Particles
from cryograd.inspection.conditioning import Conditioning
from cryograd.inspection.images import ImageFacts
from cryograd.inspection.spectrum import Rings
from cryograd.report.build import render_page
from cryograd.report.map_images import grey
from cryograd.report.style import (
    ACCENT,
    INK,
    MUTED,
    SEQUENTIAL,
    WARM,
    as_data_uri,
    as_svg,
    figure_style,
    new_figure,
)
from cryograd.rotations import FloatArray

_EXAMPLES = 12
_EXAMPLE_RESOLUTION = 20.0


def write_inspection(
    path: Path,
    particles: Particles,
    facts: dict[str, Any],
    images: ImageFacts,
    rings: list[Rings],
    conditioning: Conditioning | None = None,
) -> None:
    """Write the page; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style():
        page = render_page(
            "inspection.html.j2",
            title=particles.source.name,
            facts=facts,
            examples=_examples(particles, images.good),
            resolution=_EXAMPLE_RESOLUTION,
            defocus=Markup(_defocus_plot(particles)),
            profile=Markup(_profile_plot(images.profile)) if len(images.profile) else None,
            rings=[Markup(_rings_plot(kind, number)) for number, kind in enumerate(rings)],
            curvature=None if conditioning is None else Markup(_curvature_plot(conditioning.facts["shells"])),
            coverage=None if conditioning is None else Markup(_coverage_plot(conditioning.coverage)),
        )
    write_text(path, page)


def _examples(particles: Particles, good: np.ndarray) -> list[str]:
    """Pictures of a few images, evenly spread over the file, low-pass filtered so that the particle shows."""
    usable = np.flatnonzero(good)
    chosen = usable[np.linspace(0, len(usable) - 1, min(_EXAMPLES, len(usable))).astype(np.int64)]
    pictures = []
    for index in chosen:
        pixel_size = particles.optics[particles.optics_index[index]].pixel_size
        image = _low_passed(particles.images([index])[0].astype(np.float64), pixel_size)
        low, high = np.percentile(image, (0.5, 99.5))
        pictures.append(as_data_uri(grey(image, float(low), float(high))))
    return pictures


def _low_passed(image: FloatArray, pixel_size: float) -> FloatArray:
    """Image with a Gaussian filter that halves the amplitude at the examples' resolution."""
    size = image.shape[-1]
    kx, ky = np.fft.rfftfreq(size, pixel_size), np.fft.fftfreq(size, pixel_size)[:, None]
    window = np.exp(-np.log(2.0) * (kx**2 + ky**2) * _EXAMPLE_RESOLUTION**2)
    return np.fft.irfft2(np.fft.rfft2(image) * window, s=image.shape)


def _defocus_plot(particles: Particles) -> str:
    """Histogram of the defocus."""
    figure = new_figure(4.4, 2.5)
    axes = figure.subplots()
    axes.hist(0.5e-4 * (particles.defocus_u + particles.defocus_v), 60, color=ACCENT)
    axes.set(xlabel="defocus (µm)", ylabel="particles")
    return as_svg(figure, "defocus")


def _profile_plot(profile: FloatArray) -> str:
    """Mean brightness by distance from the image centre."""
    figure = new_figure(4.4, 2.5)
    axes = figure.subplots()
    axes.axhline(0.0, color=INK, lw=0.6)
    axes.plot(np.arange(len(profile)), profile, color=ACCENT)
    axes.set(xlabel="distance from the centre (px)", ylabel="brightness (σ)")
    return as_svg(figure, "profile")


def _rings_plot(rings: Rings, number: int) -> str:
    """Measured rings and CTF² of a few defocus bins, each scaled to its own size."""
    shown = np.array_split(np.arange(len(rings.defocus)), min(4, len(rings.defocus)))
    figure = new_figure(9.0, 0.5 + 1.25 * len(shown))
    rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, b in zip(rows, shown, strict=True):
        for curve, colour, label in (
            (rings.expected[b].mean(axis=0), WARM, "CTF²"),
            (rings.measured[b].mean(axis=0), ACCENT, "images"),
        ):
            axes.plot(
                rings.frequency, curve / max(float(np.abs(curve).max()), 1e-12), color=colour, label=label
            )
        axes.set_yticks([])
        axes.set_title(f"{1e-4 * rings.defocus[b].mean():.2f} µm")
    rows[0].legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 0.98))
    rows[-1].set_xlabel("spatial frequency (1/Å)")
    return as_svg(figure, f"rings-{number}")


def _curvature_plot(shells: dict[str, Any]) -> str:
    """Curvature by shell, and below it the share of voxels that have too little."""
    frequency = 1.0 / np.array(shells["resolution"])
    figure = new_figure(4.6, 3.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1.0))
    above.plot(frequency, shells["mean"], color=ACCENT, label="mean")
    above.plot(frequency, shells["percentile5"], color=WARM, label="5th percentile")
    # Where voxels are in no slice the percentile is zero, which a logarithmic axis leaves out.
    above.set(yscale="log", ylabel="curvature", ylim=(0.01 * min(shells["mean"]), None))
    above.legend(frameon=False)
    below.plot(frequency, 100.0 * np.array(shells["starved"]), color=INK, label="starved")
    below.plot(frequency, 100.0 * np.array(shells["unreached"]), color=WARM, label="in no slice")
    below.set(xlabel="spatial frequency (1/Å)", ylabel="voxels (%)", ylim=(0.0, None))
    below.legend(frameon=False)
    figure.align_ylabels((above, below))
    return as_svg(figure, "curvature")


def _coverage_plot(coverage: FloatArray) -> str:
    """Slices that pass each direction of Fourier space, in an equal-area projection."""
    longitude, latitude = np.meshgrid(np.radians(np.arange(-180, 181, 2)), np.radians(np.arange(-90, 91, 2)))
    nside = healpix.npix2nside(len(coverage))
    pixels = healpix.ang2pix(nside, 0.5 * np.pi - latitude, longitude, nest=True)
    figure = new_figure(5.0, 3.0)
    axes = figure.add_subplot(projection="mollweide")
    top = max(2.0, float(np.percentile(coverage, 99)))
    mesh = axes.pcolormesh(
        longitude, latitude, coverage[pixels], cmap=SEQUENTIAL, vmin=0.0, vmax=top, rasterized=True
    )
    axes.grid(color=MUTED, lw=0.3, alpha=0.5)
    axes.set_xticklabels([])
    axes.set_yticklabels([])
    figure.colorbar(mesh, ax=axes, shrink=0.7, label="slices relative to uniform")
    return as_svg(figure, "coverage")
