"""What poses and CTFs mean for convergence, on views whose gaps are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.inspection import conditioning
from cryograd.inspection.conditioning import condition
from cryograd.inspection.findings import of_conditioning
from cryograd.model.symmetry import group_matrices
from cryograd.model.voxels import FourierVoxels
from cryograd.rotations import euler_to_matrix, random_rotations
from cryograd.validation.conditioning import whole_slice

BOX, PIXEL_SIZE = 26, 4.0


def particles(rotations, box=BOX):
    n = len(rotations)
    rng, zero, whole = np.random.default_rng(76), np.zeros(n), np.zeros(n, dtype=np.int64)
    defocus = rng.uniform(1e4, 2e4, n)
    empty = pd.DataFrame()
    return Particles(
        optics=(Optics("a", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL_SIZE, box),),
        optics_index=whole,
        defocus_u=defocus,
        defocus_v=defocus,
        astigmatism_angle=zero,
        phase_shift=zero,
        b_factor=zero,
        scale=np.ones(n),
        rotations=rotations,
        shifts=None,
        half_set=None,
        stacks=(),
        stack_index=whole,
        image_index=np.arange(n),
        sign=np.ones(n, dtype=np.float32),
        table=empty,
        optics_table=empty,
        source=Path("particles.star"),
    )


def views(axis, angles, seed=0):
    """Rotations whose views lie at angles (n,) from an axis (rot, tilt), all around it."""
    rng, n = np.random.default_rng(seed), len(angles)
    around = np.stack([rng.uniform(-np.pi, np.pi, n), angles, rng.uniform(-np.pi, np.pi, n)], axis=1)
    return euler_to_matrix(around) @ euler_to_matrix(np.array([*axis, 0.0]))


def cap(angle, n=1500):
    """Angles from an axis, uniform in a cap of half-angle ``angle``."""
    return np.arccos(np.random.default_rng(1).uniform(np.cos(angle), 1.0, n))


def test_uniform_views_leave_nothing_out():
    facts = condition(particles(random_rotations(1500, np.random.default_rng(0)))).facts
    assert list(of_conditioning(facts)) == []
    assert facts["unreached"] == 0.0
    assert facts["views"]["missing"] == 0.0
    assert (facts["radius"], facts["nyquist_radius"]) == (11, 13)
    assert facts["resolution"] == pytest.approx(BOX * PIXEL_SIZE / 11)
    assert facts["steps_gradient"] > facts["steps_preconditioned"] > facts["steps_conjugate"] > 1.0
    assert max(facts["shells"]["mean"]) == 1.0


@pytest.mark.parametrize("axis", [(0.0, 0.0), (0.7, 1.1)])
@pytest.mark.parametrize("angle", [25.0, 50.0])
def test_a_missing_cone_is_found_where_it_is(axis, angle):
    rotations = views(axis, cap(np.radians(angle)))
    facts = condition(particles(rotations)).facts
    gap = facts["views"]["gap_direction"]
    rot, tilt = np.radians(gap["rot"]), np.radians(gap["tilt"])
    found = np.array([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)])
    truth = np.array([np.sin(axis[1]) * np.cos(axis[0]), np.sin(axis[1]) * np.sin(axis[0]), np.cos(axis[1])])
    assert np.degrees(np.arccos(abs(found @ truth))) < 6.0
    # A slice is at right angles to its view, and half a voxel thick.
    assert facts["views"]["gap_degrees"] == pytest.approx(90.0 - angle, abs=6.0)
    assert facts["views"]["missing"] == pytest.approx(1.0 - np.cos(np.radians(90.0 - angle)), abs=0.08)
    assert facts["condition_number"] is None
    assert facts["unreached"] > 0.1
    texts = list(of_conditioning(facts))
    assert texts[0].startswith(f"directions within {facts['views']['gap_degrees']:.0f}°")
    assert any("shells" in text for text in texts)


def test_one_view_leaves_nearly_all_out():
    facts = condition(particles(views((0.0, 0.0), np.zeros(50)))).facts
    assert facts["views"]["gap_degrees"] > 80.0
    assert facts["views"]["missing"] > 0.9
    assert facts["unreached"] > 0.8


def test_side_views_leave_no_gap_but_condition_worse():
    side = condition(particles(views((0.0, 0.0), np.full(1500, 0.5 * np.pi)))).facts
    uniform = condition(particles(random_rotations(1500, np.random.default_rng(0)))).facts
    assert side["views"]["missing"] == 0.0
    # All slices hold the axis, and too few the directions at right angles to it.
    assert side["views"]["largest"] > 3.0
    assert side["condition_number"] > 1.5 * uniform["condition_number"]


def test_the_point_group_fills_views_of_one_asymmetric_unit():
    copies = np.einsum(
        "nij,gkj->ngik", random_rotations(1500, np.random.default_rng(0)), group_matrices("D3")
    )
    # Of the equivalent views the one nearest to some direction.
    unit = np.array([turns[np.argmax(turns[:, 2] @ (0.5, 0.4, 0.77))] for turns in copies])
    alone, together = condition(particles(unit)).facts, condition(particles(unit), "D3").facts
    assert alone["views"]["gap_degrees"] > 10.0
    assert together["views"]["missing"] == 0.0
    assert "--symmetry" in next(of_conditioning(alone))


def test_the_curvature_is_that_of_slices_with_their_ctfs():
    """The diagonal's shell means, from products with unit vectors instead of the stencil."""
    rotations = random_rotations(6, np.random.default_rng(0))
    some = particles(rotations, box=10)
    found = condition(some, "C2").facts["shells"]
    voxels, points = FourierVoxels(4), whole_slice(4, torch.float64)
    group = group_matrices("C2")
    turned = torch.from_numpy(np.concatenate([rotations @ g.T for g in group]))
    values = conditioning.ctf_of(some, np.tile(np.arange(6), 2), points[:, :2] / (10 * PIXEL_SIZE))
    diagonal = []
    for unit in torch.eye(len(voxels), dtype=torch.complex128):
        diagonal.append(float((values * voxels.slices(unit, turned, points)).abs().square().sum()))
    distance = np.linalg.norm(voxels.frequencies, axis=1)
    inside = [(np.rint(distance) == shell) & (distance <= 3) for shell in (1, 2, 3)]
    means = np.array([np.array(diagonal)[chosen].mean() for chosen in inside])
    assert found["mean"] == pytest.approx((means / means.max()).tolist(), rel=1e-4)


def test_too_many_slices_are_sampled_and_too_many_pixels_left_out(monkeypatch):
    monkeypatch.setattr(conditioning, "_SLICES", 100)
    monkeypatch.setattr(conditioning, "_RADIUS", 6)
    facts = condition(particles(random_rotations(300, np.random.default_rng(0))), "C2").facts
    assert (facts["images"], facts["radius"]) == (50, 6)
    assert len(facts["shells"]["mean"]) == 6


def test_particles_without_poses_are_refused():
    some = particles(random_rotations(3, np.random.default_rng(0)))
    with pytest.raises(CryogradError, match="no poses"):
        condition(replace(some, rotations=None))


def test_boxes_too_small_and_images_without_contrast_are_refused():
    few = particles(random_rotations(20, np.random.default_rng(0)))
    with pytest.raises(CryogradError, match="too small"):
        condition(particles(few.rotations, box=6))
    with pytest.raises(CryogradError, match="every CTF is zero"):
        condition(replace(few, scale=np.zeros(20)))


def test_nyquists_shell_does_not_depend_on_rounding():
    optics = Optics("a", electron_wavelength(300.0), 2.7e7, 0.1, 0.68, 100)
    few = replace(particles(random_rotations(20, np.random.default_rng(0))), optics=(optics,))
    assert conditioning._working_radius(few)[2] == 50
