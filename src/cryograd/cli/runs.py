"""What the commands on particle images print: ``abinitio``, ``refine`` and ``reconstruct``."""

import sys
from collections.abc import Iterator
from typing import Any

from cryograd.config import ParticleRun
from cryograd.library import finished
from cryograd.library import run as run_in_folder


def run(config: ParticleRun) -> dict[str, Any]:
    """Run, write all files, and return the metrics."""
    metrics = finished(config)
    if metrics is None:
        metrics = run_in_folder(config).metrics
    else:
        print(f"the run in {config.output} is finished already, nothing was changed", file=sys.stderr)
    return metrics | {"output": str(config.output)}


def summary(metrics: dict[str, Any]) -> str:
    """What a run gave, in a few lines."""
    return "\n".join(_lines(metrics))


def _lines(metrics: dict[str, Any]) -> Iterator[str]:
    output, halves = metrics["output"], metrics["command"] != "abinitio"
    yield (
        f"{metrics['n_particles']} particles, box {metrics['box_size']} px at "
        f"{metrics['pixel_size_angstrom']:.4g} Å, symmetry {metrics['symmetry']}"
    )
    seconds = f"{metrics['wall_seconds']:.0f} s on {metrics['device']}"
    if halves:
        yield _claim(metrics, metrics["limited_by"])
        yield f"{_ending(metrics)}, {seconds}"
        yield f"maps       {output}/volume.mrc, volume_sharpened.mrc"
        yield f"half maps  {output}/half1.mrc, half2.mrc; error of their mean  {output}/standard_error.mrc"
    else:
        yield (
            f"{metrics['iterations']} iterations to {metrics['resolution_march_angstrom']:.1f} Å in {seconds}"
        )
        yield f"mean probability of the best orientation {metrics['max_probability_mean']:.2f}"
        yield f"map        {output}/volume.mrc"
    for number, mean in enumerate(metrics.get("class_populations", []), 1):
        share, reached = mean, ""
        if halves:
            single = metrics["classes"][number - 1]
            share, reached = single["share"], f", {_claim(single, metrics['limited_by'])}"
        yield f"class {number}    {output}/class{number}/volume.mrc, {share:.0%} of the particles{reached}"
    yield f"poses      {output}/particles.star"
    yield f"report     {output}/report.html"
    for finding in metrics["findings"]:
        yield f"! {finding['text']}"


def _ending(metrics: dict[str, Any]) -> str:
    """Whether the maps have converged."""
    passes = f"{metrics['passes']:.3g} passes over the images"
    if metrics["still_improving"] is None:
        return f"{passes}, as asked for"
    if metrics["still_improving"]:
        return f"after {passes} still improving: {', '.join(metrics['still_improving'])}"
    return f"converged after {passes}"


def _claim(metrics: dict[str, Any], limit: str) -> str:
    """The resolution of a map, and whether it can be believed.

    Parameters
    ----------
    metrics
        Of the run or a class.
    limit
        What the images were not looked at beyond: ``images``, or an option.
    """
    resolution, doubt = metrics["resolution_fsc143_angstrom"], metrics["why_not"]
    doubted = "" if metrics["believed"] else f", not believed: {doubt}"
    if resolution is None:
        return f"no resolution by the half maps (FSC 0.143){doubted}"
    bound = f" or finer (the limit of {'the images' if limit == 'images' else limit})"
    finer = bound if metrics["resolution_is_bound"] else ""
    return f"{resolution:.2f} Å{finer} by the half maps (FSC 0.143){doubted}"
