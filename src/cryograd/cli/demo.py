"""``cryograd demo``: the program at work, in a minute or two."""

from typing import Any

from cryograd.config import Demo
from cryograd.demonstration import demonstrated


def run(config: Demo) -> dict[str, Any]:
    """Simulate, reconstruct, compare with the truth, and report."""
    return demonstrated(config)


def summary(result: dict[str, Any]) -> str:
    """What came out, and where to look."""
    metrics, maps, poses = result["metrics"], result["maps"], result["poses"]
    claimed, found = metrics["resolution_fsc143_angstrom"], maps["resolution_fsc05_angstrom"]
    return "\n".join(
        [
            f"{metrics['n_particles']} simulated particles, {metrics['iterations']} iterations, "
            f"{metrics['wall_seconds']:.0f} s",
            f"{_angstrom(claimed)} by the half maps (FSC 0.143)",
            f"{_angstrom(found)} by the truth (FSC 0.5), correlation {maps['correlation']:.2f}",
            f"median errors of the poses: {poses['median_angle_degrees']:.1f}° and "
            f"{poses['median_shift_angstrom']:.1f} Å",
            f"map     {metrics['output']}/volume.mrc",
            f"open    {result['report']}",
        ]
    )


def _angstrom(resolution: float | None) -> str:
    return "no resolution" if resolution is None else f"{resolution:.1f} Å"
