"""Particles of several microscopes: boxes of other lengths, odd ones, other pixels and voltages."""

from pathlib import Path

import numpy as np
import pytest

from cryograd.config import Reconstruct
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.engine.frame import taken_out
from cryograd.recipe import reconstruct
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.validation.alignment import align
from cryograd.validation.fsc import fsc, resolution_at
from refinement import last

BOX, PIXEL, N = 32, 6.0, 200
# 192 and 202.8 Å; the second is odd.
ONE = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
OTHER = Optics("other", electron_wavelength(200.0), 2.0e7, 0.07, 5.2, 39)


@pytest.mark.parametrize("optics", [(ONE, OTHER), (OTHER, ONE)], ids=["even first", "odd first"])
def test_groups_of_different_boxes_make_one_map(optics: tuple[Optics, ...], tmp_path: Path) -> None:
    truth = molecule(BOX, PIXEL)
    particles = simulate(truth, PIXEL, Simulation(N, optics, snr=0.4, seed=5), tmp_path)
    options = {"symmetry": SYMMETRY, "passes": 1.0, "minibatch": 20, "max_shift": 12.0, "starts": 2}
    config = Reconstruct(particles=particles.source, output=Path("unused"), **options)
    moment = last(reconstruct(particles, config))
    found = taken_out(moment.state, particles, SYMMETRY, moment.state.volume)
    assert len(found.values) == optics[0].box_size
    moved = align(found.values, truth, found.pixel_size, PIXEL, flip_hand=True).volume
    resolution = resolution_at(fsc(moved, truth)[1], 0.5, BOX, PIXEL)
    assert resolution is not None
    assert resolution < 22.0
    # Images of either group are found equally well.
    table, group = moment.state.table, particles.optics_index
    scales = table.scales(np.arange(N), 0.25)
    assert scales[group == 0].mean() == pytest.approx(scales[group == 1].mean(), rel=0.2)
