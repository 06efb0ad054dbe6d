"""``cryograd demo``: from a made-up molecule to its report, to see the program at work."""

import json
from typing import Any

from cryograd.atomic import write_text
from cryograd.cli import abinitio, compare
from cryograd.cli.folder import RunFolder, check_writable
from cryograd.cli.molecule import SYMMETRY, molecule
from cryograd.config import Abinitio, Compare, Demo
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.simulate import Simulation, simulate
from cryograd.errors import CryogradError
from cryograd.report.build import build_report

_BOX, _PIXEL_SIZE, _SNR = 32, 6.0, 0.2
# The images are simulated with shifts of up to 10 Å.
_MAX_SHIFT = 12.0


def run(config: Demo) -> dict[str, Any]:
    """Simulate, reconstruct, compare with the truth, and report."""
    check_writable(config.output)
    if config.output.is_dir() and any(config.output.iterdir()):
        raise CryogradError("the output folder is not empty", config.output, "choose another with -o")
    simulated, folder = config.output / "simulated", RunFolder(config.output / "run")
    optics = Optics("simulated", electron_wavelength(300.0), 2.7e7, 0.1, _PIXEL_SIZE, _BOX)
    simulation = Simulation(config.particles, (optics,), snr=_SNR, seed=config.seed)
    simulate(molecule(_BOX, _PIXEL_SIZE), _PIXEL_SIZE, simulation, simulated)
    particles = simulated / "particles.star"
    metrics = abinitio.run(
        Abinitio(
            particles=particles,
            output=folder.path,
            symmetry=SYMMETRY,
            max_shift=_MAX_SHIFT,
            seed=config.seed,
            device=config.device,
        )
    )
    maps = compare.run(
        Compare(
            first=folder.volume,
            second=simulated / "truth.mrc",
            flip_hand=True,
            output=folder.path / "truth.mrc",
        )
    )
    poses = compare.run(Compare(first=particles, second=folder.particles, symmetry=SYMMETRY, flip_hand=True))
    write_text(folder.path / "comparison.json", json.dumps({"maps": maps, "poses": poses}, indent=2) + "\n")
    report = build_report(folder.path)
    return {"metrics": metrics, "maps": maps, "poses": poses, "report": str(report)}


def summary(result: dict[str, Any]) -> str:
    """What came out, and where to look."""
    metrics, maps, poses = result["metrics"], result["maps"], result["poses"]
    resolution = maps["resolution_fsc05_angstrom"]
    shown = "no resolution" if resolution is None else f"resolution {resolution:.1f} Å"
    return "\n".join(
        [
            f"{metrics['n_particles']} simulated particles, {metrics['iterations']} iterations, "
            f"{metrics['wall_seconds']:.0f} s",
            f"against the truth: {shown} at FSC 0.5, correlation {maps['correlation']:.2f}",
            f"median errors of the poses: {poses['median_angle_degrees']:.1f}° and "
            f"{poses['median_shift_angstrom']:.1f} Å",
            f"map     {metrics['output']}/volume.mrc",
            f"open    {result['report']}",
        ]
    )
