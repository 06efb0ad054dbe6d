"""Files that `benchmarks/trust/fuzz.py` found to end otherwise than in one line, as small as possible."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.read import read_particles
from cryograd.errors import CryogradError
from cryograd.inspection.sample import sampled
from cryograd.inspection.spectrum import thon_rings
from cryograd.maps import Map
from cryograd.simulation.simulate import Simulation, simulate
from stacks import write_stack

BOX = 8


@pytest.fixture
def particles(tmp_path: Path) -> Callable[..., Path]:
    """Make 20 particles whose optics are of some kind, and give their file."""

    def make(pixel_size: float) -> Path:
        density = np.zeros((BOX, BOX, BOX), dtype=np.float32)
        density[4, 4, 4] = density[4, 3, 2] = 1.0
        optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, pixel_size, BOX)
        simulate(density, pixel_size, Simulation(20, (optics,)), tmp_path / "sim")
        return tmp_path / "sim/particles.star"

    return make


@pytest.mark.parametrize("pixel_size", [255.0, 12.0])
def test_images_with_hardly_a_shell_have_no_rings(particles: Callable[..., Path], pixel_size: float) -> None:
    found = read_particles(particles(pixel_size))
    assert thon_rings(found, sampled(found)) == []


@pytest.mark.parametrize("value", [3e38, -1e30, 1.1e14])
def test_values_whose_squares_have_no_sum_are_refused_in_a_map(tmp_path: Path, value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        write_map(tmp_path / "a.mrc", np.full((4, 4, 4), value), 2.0)
    with pytest.raises(CryogradError, match=r"the map has the value .*, out of all range"):
        Map.read(tmp_path / "a.mrc")


@pytest.mark.parametrize("value", [3e38, -1e30])
def test_values_whose_squares_have_no_sum_are_refused_in_an_image(
    particles: Callable[..., Path], value: float
) -> None:
    path = particles(4.0)
    images = read_particles(path).images(np.arange(20))
    images[3, 2, 1] = value
    write_stack(path.with_name("particles.mrcs"), images, 4.0)
    with pytest.raises(CryogradError, match=r"the image has values out of all range .*, image 4 of"):
        read_particles(path).images(np.arange(20))
