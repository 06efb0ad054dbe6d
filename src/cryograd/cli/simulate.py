"""``cryograd simulate``: images of a known molecule."""

from typing import Any

from cryograd.config import Simulate
from cryograd.simulation.order import simulated


def run(config: Simulate) -> dict[str, Any]:
    """Write the particles and the truth, and say what was written."""
    made = simulated(config)
    return {
        "particles": str(config.output / "particles.star"),
        "truth": str(config.output / "truth.mrc"),
        "n_particles": len(made.particles),
        "box_size": len(made.truth.values),
        "pixel_size_angstrom": made.truth.pixel_size,
        "snr": config.snr,
    }


def summary(result: dict[str, Any]) -> str:
    """Where the files are."""
    return "\n".join(
        [
            f"{result['n_particles']} images of {result['box_size']} px at "
            f"{result['pixel_size_angstrom']:.4g} Å, signal-to-noise ratio {result['snr']:g}",
            f"particles  {result['particles']}",
            f"truth      {result['truth']}",
        ]
    )
