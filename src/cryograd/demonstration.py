"""From a made-up molecule to its report, to see the program at work."""

import json
import shutil
from pathlib import Path
from typing import Any

from cryograd import library
from cryograd.atomic import write_text
from cryograd.config import Demo
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.errors import CryogradError
from cryograd.occupied import left_behind, occupied
from cryograd.output.folder import RunFolder
from cryograd.paths import check_writable
from cryograd.report.build import build_report
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate

_BOX, _PIXEL_SIZE, _SNR = 32, 6.0, 0.2
# The images are simulated with shifts of up to 10 Å.
_MAX_SHIFT = 12.0


def demonstrated(config: Demo) -> dict[str, Any]:
    """Simulate, reconstruct, compare with the truth, and report; the figures of all."""
    check_writable(config.output)
    if config.output.is_dir() and any(config.output.iterdir()) and not left_behind(config.output):
        raise CryogradError("the output folder is not empty", config.output, "choose another with -o")
    config.output.mkdir(parents=True, exist_ok=True)
    source, folder = config.output / "simulated", RunFolder(config.output / "run")
    with occupied(config.output):
        try:
            return _demonstrated(config, source, folder)
        except BaseException:
            _remove(source, folder.path)
            raise


def _remove(*folders: Path) -> None:
    """Remove folders with all that is in them, if they are there."""
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _demonstrated(config: Demo, source: Path, folder: RunFolder) -> dict[str, Any]:
    """All of it in a folder that no other process writes to."""
    # What a demonstration that was killed has left is made anew.
    _remove(source, folder.path)
    optics = Optics("simulated", electron_wavelength(300.0), 2.7e7, 0.1, _PIXEL_SIZE, _BOX)
    simulation = Simulation(config.particles, (optics,), snr=_SNR, seed=config.seed)
    simulate(molecule(_BOX, _PIXEL_SIZE), _PIXEL_SIZE, simulation, source)
    particles = source / "particles.star"
    result = library.reconstruct(
        particles,
        output=folder.path,
        symmetry=SYMMETRY,
        max_shift=_MAX_SHIFT,
        seed=config.seed,
        device=config.device,
    )
    truth = folder.path / "truth.mrc"
    maps = library.compare(folder.volume, source / "truth.mrc", output=truth).figures
    poses = library.compare(particles, folder.particles, symmetry=SYMMETRY).figures
    write_text(folder.path / "comparison.json", json.dumps({"maps": maps, "poses": poses}, indent=2) + "\n")
    report = str(build_report(folder.path))
    metrics = result.metrics | {"output": str(folder.path)}
    return {"metrics": metrics, "maps": maps, "poses": poses, "report": report}
