"""Picks that are not of the particle, told by their scales and by where they lie in their images."""

import math

import numpy as np
import pytest
import torch

from cryograd.objective.picks import FEWEST, LEAST_STRAY, Cues, Picks
from cryograd.pose.quadrature import ShiftPrior
from cryograd.rotations import random_rotations

REACH, WIDTH = 43.0, 5.0


def anywhere(n: int, rng: np.random.Generator) -> np.ndarray:
    """Points of a disc (n, 2)."""
    radius, angle = REACH * np.sqrt(rng.random(n)), rng.uniform(0.0, 2.0 * np.pi, n)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def picked(
    n: int, share: float, seed: int = 0, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> tuple[Cues, np.ndarray]:
    """Cues of particles, a share of them junk of another scale anywhere in its images, and which ones."""
    rng = np.random.default_rng(seed)
    junk = rng.random(n) < share
    rotations = random_rotations(n, rng)
    near = rotations[:, :2] @ np.array(centre) + rng.normal(0.0, WIDTH, (n, 2))
    shifts = np.where(junk[:, None], anywhere(n, rng), near)
    scale = np.where(junk, rng.normal(0.8, 0.4, n), rng.normal(1.0, 0.2, n))
    return Cues(scale, rotations, shifts, np.zeros(n)), junk


def of_scales(scale: np.ndarray, seed: int = 0) -> Cues:
    """Cues of images that all lie alike."""
    cues, _ = picked(len(scale), 0.0, seed)
    return Cues(scale, cues.rotations, cues.shifts, cues.spread)


def found(cues: Cues) -> Picks:
    picks = Picks.of(cues, REACH, 1.0)
    assert picks is not None
    return picks


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_junk_is_told_by_place_and_scale(share: float) -> None:
    cues, junk = picked(3000, share)
    picks = found(cues)
    probability = picks.junk(cues)
    assert np.mean(junk[probability > 0.5]) > 0.9
    assert np.mean(probability[junk] > 0.5) > 0.7
    # Probabilities mean what they say.
    assert probability.mean() == pytest.approx(share, abs=0.03)
    assert picks.width == pytest.approx(WIDTH, rel=0.05)


def test_the_centre_of_the_picks_is_found() -> None:
    centre = (10.0, -5.0, 20.0)
    cues, junk = picked(2000, 0.2, centre=centre)
    picks = found(cues)
    np.testing.assert_allclose(picks.centre, centre, atol=1.0)
    assert np.mean(junk[picks.junk(cues) > 0.5]) > 0.9


@pytest.mark.parametrize("width", [0.06, 0.1, 0.25])
def test_junk_is_told_by_its_scale_alone(width: float) -> None:
    rng = np.random.default_rng(2)
    scale = np.concatenate([rng.normal(0.6, width, 300), rng.normal(1.2, 0.1, 900)])
    cues = of_scales(scale)
    listed = found(cues).junk(cues) > 0.5
    assert listed[:300].mean() > 0.8
    assert listed[300:].mean() < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_a_set_without_junk_has_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tails = 1.0 + 0.1 * rng.standard_t(8, 1268)
    for scale in (rng.normal(1.0, 0.15, 2000), rng.gamma(20.0, 0.05, 2000), tails):
        cues = of_scales(scale, seed)
        assert not found(cues).junk(cues).any()


def test_particles_off_the_origin_are_no_junk() -> None:
    """Of a map that lies 30 Å from its origin, some views have it in the middle, and most do not."""
    cues, _ = picked(1000, 0.0, centre=(0.0, 0.0, 30.0))
    picks = found(cues)
    assert not picks.junk(cues).any()
    # Without their orientations they lie anywhere within 30 Å.
    assert picks.shift_prior.sigma == pytest.approx(math.sqrt(WIDTH**2 + 300.0), rel=0.05)


def test_views_along_one_axis_leave_the_place_on_it_open() -> None:
    cues, _ = picked(500, 0.0)
    along = Cues(cues.scale, np.tile(np.eye(3), (500, 1, 1)), cues.shifts + np.array([7.0, 0.0]), cues.spread)
    np.testing.assert_allclose(found(along).centre, (7.0, 0.0, 0.0), atol=1.0)


def test_what_poses_leave_open_widens_the_prior() -> None:
    cues, _ = picked(1000, 0.0)
    vague = Cues(cues.scale, cues.rotations, cues.shifts, np.full(1000, 2.0 * 49.0))
    assert found(vague).width == pytest.approx(math.hypot(WIDTH, 7.0), rel=0.05)


def test_few_or_equal_images_are_not_judged() -> None:
    few, _ = picked(FEWEST - 1, 0.3)
    assert Picks.of(few, REACH, 1.0) is None
    cues, _ = picked(200, 0.0)
    same = Cues(np.ones(200), cues.rotations, np.zeros((200, 2)), np.zeros(200))
    picks = found(same)
    assert picks.width == 1.0
    assert not picks.junk(same).any()


def test_a_large_set_is_looked_at_in_part() -> None:
    cues, junk = picked(20_000, 0.2)
    probability = found(cues).junk(cues)
    assert np.mean(junk[probability > 0.5]) > 0.9
    assert probability.mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("stray", [0.0, LEAST_STRAY, 0.3])
def test_the_prior_of_shifts_is_a_density(stray: float) -> None:
    axis = torch.arange(-43.0, 43.0, 0.25, dtype=torch.float64)
    squares = axis[:, None].square() + axis.square()
    density = ShiftPrior(6.0, stray, REACH).log_density(squares).exp()
    within = density[squares <= REACH**2].sum() * 0.25**2
    assert float(within) == pytest.approx(1.0, abs=2e-3)


def test_images_without_any_shift_are_judged_by_their_scale() -> None:
    """Also where none was looked for, and where they are centred better than the least width."""
    rng = np.random.default_rng(2)
    scale = np.concatenate([rng.normal(0.35, 0.08, 60), rng.normal(1.0, 0.08, 140)])
    cues = of_scales(scale)
    for shifts in (np.zeros((200, 2)), rng.normal(0.0, 1.5, (200, 2))):
        exact = Cues(scale, cues.rotations, shifts, np.zeros(200))
        picks = Picks.of(exact, 0.0, 6.0)
        assert picks is not None
        assert picks.others == pytest.approx(0.3, abs=0.03)
        assert bool(picks.shift_prior.log_density(torch.zeros(1)).isfinite().all())


def test_weak_images_are_told_beside_those_that_lie_anywhere() -> None:
    """Ice in the middle of its box, at a third of the particles' scale, is no particle either."""
    cues, junk = picked(2000, 0.15, seed=3)
    weak = np.random.default_rng(4).random(2000) < 0.15
    scale = np.where(weak & ~junk, 0.35 * cues.scale, cues.scale)
    picks = found(Cues(scale, cues.rotations, cues.shifts, cues.spread))
    assert len(picks.models[0].others) == 2
    assert sum(picks.weights) == pytest.approx(1.0)
    probability = picks.junk(Cues(scale, cues.rotations, cues.shifts, cues.spread))
    assert np.mean((weak | junk)[probability > 0.5]) > 0.95
    assert np.mean(probability[weak & ~junk] > 0.5) > 0.8
    assert np.mean(probability[junk] > 0.5) > 0.7
