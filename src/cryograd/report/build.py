"""Build ``report.html`` from a run's files: one page without references to anything outside it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cryograd.atomic import write_text
from cryograd.report import map_images, plots
from cryograd.report.half_maps import half_map_plots, shared_rows
from cryograd.report.load import Poses, RunFiles, load_run
from cryograd.report.remarks import remarks, shift_limit
from cryograd.report.style import figure_style
from cryograd.version import __version__


def build_report(folder: Path) -> Path:
    """Write the report of a run into its folder.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    CryogradError
        The folder holds no run.
    """
    run = load_run(folder)
    with figure_style():
        page = render_page("run.html.j2", **_page_of(run))
    path = folder / "report.html"
    write_text(path, page)
    return path


def render_page(template: str, **values: Any) -> str:
    """HTML of one of the package's templates."""
    environment = Environment(
        loader=PackageLoader("cryograd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(version=__version__, **values)
    # Names of files may hold bytes that are no text, and such a page could not be written.
    return page.encode("utf-8", "backslashreplace").decode()


def _page_of(run: RunFiles) -> dict[str, Any]:
    """Everything that the template shows."""
    surfaces, level = map_images.surfaces(run.volume)
    return {
        "title": run.folder.resolve().name,
        "facts": _facts(run),
        "remarks": remarks(run),
        "surfaces": surfaces,
        "level": level,
        "slices": map_images.slices(run.volume),
        "projections": map_images.projections(run.volume),
        "box": run.volume.shape[0] * run.pixel_size,
        "classes": _classes(run),
        "truth": _truth(run),
        "halves": half_map_plots(run.halves) if run.halves is not None else None,
        "shared": shared_rows(run.metrics["shared"]) if run.metrics and "shared" in run.metrics else None,
        "course": Markup(plots.course(run.log)) if run.log else None,
        "poses": _pose_plots(run, run.poses) if run.poses is not None else None,
        "times": Markup(plots.stage_times(run.log)) if run.log else None,
        "settings": run.settings,
        "metrics": {k: v for k, v in (run.metrics or {}).items() if not isinstance(v, dict)},
    }


def _classes(run: RunFiles) -> list[dict[str, Any]]:
    """Pictures of every class and its share of the particles, which only a finished run knows."""
    populations = (run.metrics or {}).get("class_populations", [None] * len(run.classes))
    return [
        {"surfaces": map_images.surfaces(volume)[0], "population": population}
        for volume, population in zip(run.classes, populations, strict=True)
    ]


def _truth(run: RunFiles) -> dict[str, Any] | None:
    """Comparison with the truth, where it is known."""
    if run.comparison is None or run.truth is None:
        return None
    maps, poses = run.comparison["maps"], run.comparison["poses"]
    return {
        "surfaces": map_images.surfaces(run.truth)[0],
        "fsc": Markup(plots.fourier_shells(maps)),
        "resolution": maps["resolution_fsc05_angstrom"],
        "angle": poses["median_angle_degrees"],
        "shift": poses["median_shift_angstrom"],
    }


def _pose_plots(run: RunFiles, poses: Poses) -> dict[str, Markup | None]:
    """Plots of the poses."""
    known = poses.entropy is not None or poses.max_probability is not None
    return {
        "views": Markup(plots.views(poses, run.common_symmetry)),
        "shifts": Markup(plots.shifts(poses, shift_limit(run))),
        "certainty": Markup(plots.certainty(poses)) if known else None,
    }


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """The run in a few numbers: value and what it is."""
    facts = []
    if run.log:
        last = run.log[-1]
        # The rows of half-sets say what they have resolved, which is what poses are found with.
        name = "resolution of the poses' map" if "correlation" in last else "resolution used"
        facts.append((f"{last['resolution']:.1f} Å", name))
    if run.metrics is not None:
        if run.metrics.get("resolution_fsc143_angstrom") is not None:
            facts.insert(0, _claim(run.metrics))
        facts.append((f"{run.metrics['n_particles']:,}", "particles"))
    facts.append((run.symmetry, "symmetry"))
    facts.append((f"{run.volume.shape[0]} px", f"box, {run.pixel_size:.3g} Å a pixel"))
    if run.log:
        facts.append((f"{len(run.log):,}", "iterations"))
    if run.metrics is not None:
        facts.append((_duration(run.metrics["wall_seconds"]), f"on {run.metrics['device']}"))
    return facts


def _claim(metrics: dict[str, Any]) -> tuple[str, str]:
    """The resolution that a refinement claims, and what is to be thought of it."""
    bound = " or finer" if metrics.get("resolution_is_bound") else ""
    doubted = "" if metrics.get("believed", True) else ", not believed"
    return f"{metrics['resolution_fsc143_angstrom']:.1f} Å{bound}", f"resolution (FSC 0.143){doubted}"


def _duration(seconds: float) -> str:
    """Time for people."""
    minutes = seconds / 60.0
    if minutes < 2.0:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120.0 else f"{minutes / 60.0:.1f} h"
