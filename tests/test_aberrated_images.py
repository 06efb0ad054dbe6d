"""Images with strong aberrations, from simulation to poses: all that the file says must be applied."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryograd.data.mrc import read_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.read import read_particles
from cryograd.fourier import HalfDisc
from cryograd.images.held import read_images
from cryograd.images.store import load
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices
from cryograd.objective.likelihood import MarginalLikelihood
from cryograd.pose.posterior import Batch
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, ShiftPrior
from cryograd.pose.search import Search
from cryograd.rotations import angular_distance
from cryograd.simulation.simulate import Simulation, simulate

BOX, PIXEL, RADIUS, IMAGES = 40, 2.5, 14, 16
EXTENT, DISC = BOX * PIXEL, HalfDisc(RADIUS)
# Phases of about two radians at the finest resolution, 7 Å.
OPTICS = Optics(
    "g",
    electron_wavelength(300.0),
    2.7e7,
    0.1,
    PIXEL,
    BOX,
    beam_tilt=(8e-3, -6e-3),
    odd_zernike=(5.0, -3.0, 400.0, 0.0, 0.0, -500.0),
    even_zernike=(20.0, 60.0, 40.0, 0.0, 4000.0, 20.0, 20.0, 0.0, -3000.0),
    magnification=((1.07, 0.04), (-0.02, 0.93)),
)
WRONG = {
    "no beam tilt": {"beam_tilt": (0.0, 0.0)},
    "opposite beam tilt": {"beam_tilt": (-8e-3, 6e-3)},
    "no odd coefficients": {"odd_zernike": ()},
    "no even coefficients": {"even_zernike": ()},
    "opposite even coefficients": {"even_zernike": tuple(-c for c in OPTICS.even_zernike)},
    "no magnification": {"magnification": ((1.0, 0.0), (0.0, 1.0))},
    "transposed magnification": {"magnification": ((1.07, -0.02), (0.04, 0.93))},
}
NOTHING = {"beam_tilt": (0.0, 0.0), "odd_zernike": (), "even_zernike": (), **WRONG["no magnification"]}


def simulated(optics, folder):
    """Particles as read from a simulation's file, and the molecule."""
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    centres = np.random.default_rng(3).normal(0.0, 11.0, (30, 3))
    density = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 8.0) for a, b, c in centres)
    simulation = Simulation(IMAGES, (optics,), snr=10.0, defocus=(3000.0, 9000.0), max_shift=6.0)
    simulate(density.astype(np.float32), PIXEL, simulation, folder)
    return read_particles(folder / "particles.star"), torch.tensor(read_map(folder / "truth.mrc")[0])


@pytest.fixture(scope="module")
def aberrated(tmp_path_factory):
    return simulated(OPTICS, tmp_path_factory.mktemp("aberrated"))


def loaded(particles):
    images = read_images(particles, BOX, EXTENT, 70.0, torch.device("cpu"))
    return load(images, np.arange(IMAGES), DISC, np.zeros((IMAGES, 2)), np.full(IMAGES, np.inf))


def correlation(particles, volume):
    """Mean correlation of the images with their predictions at the poses that the file has."""
    images, projector = loaded(particles), Projector(BOX, RADIUS, 4)
    slices = projector.sample(
        projector.transform(volume), torch.as_tensor(particles.rotations).float(), slice_points(DISC)
    )
    phases = shift_phases(torch.as_tensor(DISC.frequencies / EXTENT), torch.as_tensor(particles.shifts))
    predicted = images.ctf * slices * phases
    product = (predicted.conj() * images.images).sum(dim=1).real
    return (product / (predicted.norm(dim=1) * images.images.norm(dim=1))).mean().item()


def with_optics(particles, change):
    return replace(particles, optics=(replace(OPTICS, **change),))


def test_images_agree_with_the_model_as_well_as_without_aberrations(aberrated, tmp_path):
    plain = correlation(*simulated(replace(OPTICS, **NOTHING), tmp_path))
    assert plain > 0.95
    assert correlation(*aberrated) == pytest.approx(plain, abs=0.005)


@pytest.mark.parametrize("change", WRONG.values(), ids=list(WRONG))
def test_each_aberration_matters(aberrated, change):
    particles, volume = aberrated
    assert correlation(with_optics(particles, change), volume) < 0.91


def inferred(particles, volume):
    """Poses of images on a coarse grid to which the true rotations are added."""
    images = loaded(particles)
    # White noise of variance 1; the evidence lacks constants that are the same for all.
    batch = Batch(images.images / BOX, images.ctf / BOX, -(images.images / BOX).abs().square().sum(dim=1))
    grid = RotationGrid.covering(0.4, group_matrices("C1"))
    grid = replace(grid, matrices=np.concatenate([grid.matrices, particles.rotations]))
    search = Search(RADIUS, grid, ShiftGrid.covering(1.5, 9.0, ShiftPrior(4.0)))
    return MarginalLikelihood(BOX, EXTENT, RADIUS).infer(volume, batch, search).poses


def test_poses_are_found_in_an_exhaustive_search(aberrated):
    particles, volume = aberrated
    known, ignored = (inferred(with_optics(particles, change), volume) for change in ({}, NOTHING))
    angles = angular_distance(known.rotations.double().numpy(), particles.rotations)
    errors = [
        np.linalg.norm(poses.shifts.double().numpy() - particles.shifts, axis=1) for poses in (known, ignored)
    ]
    assert angles.max() < 1e-3
    # The lattice of shifts has a spacing of 1.5 Å.
    assert np.median(errors[0]) < 0.75
    assert np.median(errors[1]) > 1.2
    assert (known.log_evidence > ignored.log_evidence + 100.0).all()
