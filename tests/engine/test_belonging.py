"""What half-sets make of picks that are not of the particle, and of particles off the map's origin."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryograd.data.particles import Particles
from cryograd.engine.belonging import counts_of, with_picks
from cryograd.engine.between import leave_centred, refuse_empty
from cryograd.engine.parts import Behind
from cryograd.engine.run import Run
from cryograd.engine.searches import search_at
from cryograd.engine.state import State
from cryograd.errors import FruitlessError
from cryograd.model.symmetry import Symmetrizer
from cryograd.recipe import refine
from cryograd.rotations import random_rotations
from cryograd.simulation.molecule import SYMMETRY, molecule
from refinement import BOX, PIXEL, N, before, configuration, simulated


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture
def seen(particles: Particles) -> tuple[Run, State]:
    """A refinement all of whose images were visited, a fifth of them junk at the edge of what is searched."""
    folder, rng = particles.source.parent, np.random.default_rng(1)
    moment = before(refine(particles, configuration(folder, max_shift=40.0)))
    run, state = moment.run, moment.state
    junk = np.arange(N) % 5 == 0
    table = state.table
    table.visited[:] = True
    table.top_rotations[:, 0] = random_rotations(N, rng)
    table.top_shifts[:, 0] = rng.normal(0.0, 4.0, (N, 2))
    angle = rng.uniform(0.0, 2.0 * np.pi, N)
    table.top_shifts[junk, 0] = 36.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)[junk]
    table.energy[:] = 50.0
    table.match[:] = table.energy * np.where(junk, 0.7, rng.normal(1.0, 0.1, N))
    for number, side in enumerate(state.sides):
        state.sides[number] = with_picks(run, state, number, side)
    return run, state


def test_images_count_as_much_as_they_belong(seen: tuple[Run, State]) -> None:
    run, state = seen
    for number, members in enumerate(run.sides):
        counts = counts_of(run, state, number, members.every)
        assert counts is not None
        junk = members.every % 5 == 0
        assert float(counts[torch.as_tensor(junk)].max()) < 0.2
        assert float(counts[torch.as_tensor(~junk)].mean()) > 0.95
        # Whichever others they are looked at with.
        assert torch.equal(counts_of(run, state, number, members.every[3:9]), counts[3:9])


def test_strange_images_never_count(seen: tuple[Run, State]) -> None:
    run, state = seen
    strange = np.arange(N) % 7 == 0
    other = replace(run, images=replace(run.images, strange=strange))  # type: ignore[type-var]
    members = run.sides[0].every
    for picks in (state.sides[0].picks, None):
        state.sides[0] = replace(state.sides[0], picks=picks)
        counts = counts_of(other, state, 0, members)
        assert counts is not None
        assert not counts[torch.as_tensor(strange[members])].any()
        assert float(counts[torch.as_tensor(~strange[members])].max()) > 0.9


def test_an_image_that_was_not_visited_counts(seen: tuple[Run, State]) -> None:
    run, state = seen
    state.table.visited[:] = False
    counts = counts_of(run, state, 0, run.sides[0].every)
    assert counts is not None
    assert bool((counts == 1.0).all())


def test_a_half_is_judged_by_its_own_images(seen: tuple[Run, State]) -> None:
    run, state = seen
    mine, other = (members.every for members in run.sides)
    counts = counts_of(run, state, 0, mine)
    state.table.top_shifts[other] += 30.0
    state.table.match[other] *= 3.0
    again = with_picks(run, state, 0, state.sides[0])
    assert again.picks == state.sides[0].picks
    assert torch.equal(counts_of(run, state, 0, mine), counts)


def test_the_prior_of_shifts_is_that_of_the_picks(seen: tuple[Run, State]) -> None:
    run, state = seen
    picks = state.sides[0].picks
    assert picks is not None
    assert picks.width == pytest.approx(max(4.0, PIXEL), rel=0.2)
    assert picks.others == pytest.approx(0.2, abs=0.05)
    known, unknown = (search_at(run, 6.0, 0, SYMMETRY, prior=prior) for prior in (picks.shift_prior, None))
    assert known.shifts.prior == picks.shift_prior
    assert unknown.shifts.prior.sigma == pytest.approx(0.2 * run.max_shift)


@pytest.mark.parametrize(("symmetry", "moves"), [("C1", (1.0, 1.0, 1.0)), ("C4", (0.0, 0.0, 1.0))])
def test_a_start_is_moved_to_where_the_boxes_are_centred(
    seen: tuple[Run, State], symmetry: str, moves: tuple[float, float, float]
) -> None:
    """Of a point group along its axis alone."""
    _, state = seen
    centre, rng = np.array([12.0, -6.0, 18.0]), np.random.default_rng(0)
    table = state.table
    table.top_shifts[:, 0] = table.top_rotations[:, 0, :2] @ centre + rng.normal(0.0, 3.0, (N, 2))
    blob = torch.as_tensor(molecule(BOX, PIXEL))
    blob = Symmetrizer(symmetry, BOX, BOX / 2 - 1).forward(blob)
    state.sides[0] = replace(
        state.sides[0], tracks=(replace(state.sides[0].tracks[0], symmetry=symmetry, volume=blob),)
    )
    state.mask = torch.ones_like(state.mask)
    (volume,) = leave_centred(state, Behind()).maps[-1]
    axis = (torch.arange(BOX) - BOX // 2) * PIXEL

    def middle(density: torch.Tensor) -> np.ndarray:
        weight = density.clamp(min=0.0)
        return np.array(
            [
                float((weight.sum(dim=[k for k in range(3) if k != d]) * axis).sum() / weight.sum())
                for d in (2, 1, 0)
            ]
        )

    np.testing.assert_allclose(middle(blob) - middle(volume), centre * np.array(moves), atol=2.0)


@pytest.mark.parametrize(
    ("density", "message"),
    [([0.0, 1.0], "class 1 has lost all"), ([1.0, 0.0], "class 2 has lost all"), ([0.0, 0.0], "no particle")],
)
def test_maps_of_classes_without_density_are_named(
    particles: Particles, density: list[float], message: str
) -> None:
    with pytest.raises(FruitlessError, match=message):
        refuse_empty([torch.full((4, 4, 4), value) for value in density], particles)
