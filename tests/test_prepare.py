"""What a run refuses before its first iteration."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryograd import prepare as preparation
from cryograd.cli.molecule import SYMMETRY, molecule
from cryograd.config import Abinitio
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.data.simulate import Simulation, simulate
from cryograd.errors import CryogradError
from cryograd.prepare import prepare
from cryograd.reconstruct import PATIENCE
from cryograd.solvers import registry
from cryograd.solvers.sagd import gradient_bytes

BOX, PIXEL = 32, 6.0


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    folder = tmp_path_factory.mktemp("simulated")
    return simulate(molecule(BOX, PIXEL), PIXEL, Simulation(20, (optics,), snr=0.3), folder)


def config(**options) -> Abinitio:
    return Abinitio(particles=Path("particles.star"), output=Path("out"), symmetry=SYMMETRY, **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_shift", 5000.0),
        ("max_shift", 97.0),
        ("particle_diameter", 5000.0),
        ("particle_diameter", 1.0),
        ("start_resolution", 1e6),
    ],
)
def test_lengths_that_do_not_fit_the_box_are_refused(particles: Particles, option: str, value: float) -> None:
    with pytest.raises(CryogradError, match=f"--{option.replace('_', '-')} .* does not fit a box of 192 Å"):
        prepare(particles, config(**{option: value}))


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_an_empty_mask_is_refused(particles: Particles, tmp_path: Path, level: float) -> None:
    write_map(tmp_path / "mask.mrc", np.full((BOX, BOX, BOX), level), PIXEL)
    with pytest.raises(CryogradError, match="the mask is empty"):
        prepare(particles, config(mask=tmp_path / "mask.mrc"))


def test_halves_do_not_follow_the_order_of_the_file(particles: Particles) -> None:
    half = prepare(particles, config())[0].half
    assert half.sum() == len(particles) // 2
    order = np.arange(len(particles)) % 2 == 1
    assert 0 < (half == order).sum() < len(particles)


def test_importance_sampling_has_a_memory_and_search_has_none(particles: Particles) -> None:
    assert len(prepare(particles, config())[1].memory) == 0
    setup, state = prepare(particles, config(proposal="importance", samples=3.0))
    assert len(state.memory) == len(particles)
    assert setup.sampler is not None
    assert setup.sampler.samples == 3.0


@pytest.mark.parametrize("name", ["exponential", "car", "gaussian"])
def test_a_prior_is_on_the_scale_of_the_data(particles: Particles, name: str) -> None:
    setup, state = prepare(particles, config(prior=name))
    level = float(state.volume[state.mask > 0.5].square().mean().sqrt())
    assert 0.2 * level < setup.prior.scale < 5.0 * level  # type: ignore[attr-defined]


def test_masked_images_are_refused_by_name(tmp_path: Path) -> None:
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    particles = simulate(molecule(BOX, PIXEL), PIXEL, Simulation(5, (optics,), snr=0.3), tmp_path)
    axis = np.arange(BOX) - BOX // 2
    with mrcfile.open(tmp_path / "particles.mrcs", "r+") as mrc:
        assert mrc.data is not None
        mrc.data[3][np.hypot(*np.meshgrid(axis, axis)) > 12] = 0.0
    with pytest.raises(CryogradError, match=r"no noise outside the particle.* image 4 of .*particles\.mrcs"):
        prepare(particles, config())


@pytest.mark.parametrize(("solver", "held"), [("preconditioned", 0), ("sagd", 2), ("sgd", 2), ("em", 0)])
def test_the_papers_solvers_hold_images_out(particles: Particles, solver: str, held: int) -> None:
    setup, _ = prepare(particles, config(solver=solver))
    assert len(setup.held_out) == held
    both = np.concatenate([setup.held_out, setup.train])
    assert sorted(both) == list(range(len(particles)))


def test_holding_out_most_images_is_refused(particles: Particles) -> None:
    assert len(prepare(particles, config(held_out=10))[0].train) == 10
    with pytest.raises(CryogradError, match="--held-out 11 leaves too few of 20 particles"):
        prepare(particles, config(held_out=11))


def test_a_partition_has_every_image_that_is_not_held_out_once(particles: Particles) -> None:
    setup, _ = prepare(particles, config(solver="sagd", minibatch=4))
    assert sorted(np.concatenate(setup.partition)) == sorted(setup.train)
    assert {len(part) for part in setup.partition} <= {3, 4}


def test_minibatches_grow_where_their_gradients_would_take_too_much_memory(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, _ = prepare(particles, config(solver="sagd", minibatch=1))
    assert len(setup.partition) == len(setup.train)
    monkeypatch.setattr(preparation, "MEMORY_BYTES", 3 * gradient_bytes(setup.plan.final_radius))
    setup, _ = prepare(particles, config(solver="sagd", minibatch=1))
    assert len(setup.partition) == 3


@pytest.mark.parametrize("solver", ["preconditioned", "sagd", "sgd", "em", "projection-matching"])
@pytest.mark.parametrize("iterations", [3, 10, 333])
def test_a_plan_has_the_iterations_that_were_asked_for(
    particles: Particles, solver: str, iterations: int
) -> None:
    plan = prepare(particles, config(solver=solver, iterations=iterations))[0].plan
    assert plan.optimisation == iterations
    assert min(plan.select, plan.march, plan.settle) >= 1


def test_projection_matching_among_drawn_poses_is_refused(particles: Particles) -> None:
    with pytest.raises(CryogradError, match="projection matching takes the best pose of a search"):
        prepare(particles, config(solver="projection-matching", proposal="importance"))


@pytest.mark.parametrize("solver", ["preconditioned", "sagd", "sgd"])
@pytest.mark.parametrize("n", [20, 500, 4000, 40_000, 10**6])
def test_held_out_images_are_judged_often_enough_to_end_a_run(solver: str, n: int) -> None:
    plan = preparation._plan(config(solver=solver), registry.get(solver), n, min(200, n), (5.0, 8.0, 28.0))
    settling = range(plan.select + plan.march + 1, plan.optimisation + 1)
    assert sum(i % plan.judged_every == 0 for i in settling) > PATIENCE
