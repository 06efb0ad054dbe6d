"""What a run refuses before its first iteration."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryograd.config import Abinitio
from cryograd.data.mrc import write_map
from cryograd.data.optics import Optics, electron_wavelength
from cryograd.data.particles import Particles
from cryograd.errors import CryogradError
from cryograd.recipe import Moment, abinitio
from cryograd.simulation.molecule import SYMMETRY, molecule
from cryograd.simulation.simulate import Simulation, simulate
from cryograd.solvers.sagd import gradient_bytes
from refinement import before

BOX, PIXEL = 32, 6.0


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    folder = tmp_path_factory.mktemp("simulated")
    return simulate(molecule(BOX, PIXEL), PIXEL, Simulation(20, (optics,), snr=0.3), folder)


def config(**options) -> Abinitio:
    return Abinitio(particles=Path("particles.star"), output=Path("out"), symmetry=SYMMETRY, **options)


def prepared(particles: Particles, options: Abinitio) -> Moment:
    """A run before its first iteration."""
    return before(abinitio(particles, options))


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
        prepared(particles, config(**{option: value}))


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_an_empty_mask_is_refused(particles: Particles, tmp_path: Path, level: float) -> None:
    write_map(tmp_path / "mask.mrc", np.full((BOX, BOX, BOX), level), PIXEL)
    with pytest.raises(CryogradError, match="the mask is empty"):
        prepared(particles, config(mask=tmp_path / "mask.mrc"))


def test_halves_do_not_follow_the_order_of_the_file(particles: Particles) -> None:
    # Expectation maximisation has no prior on the spectrum.
    assert prepared(particles, config(solver="em")).run.noise_halves is None
    half = prepared(particles, config()).run.noise_halves
    assert half is not None
    assert half.sum() == len(particles) // 2
    order = np.arange(len(particles)) % 2 == 1
    assert 0 < (half == order).sum() < len(particles)


def test_importance_sampling_has_a_memory_and_search_has_none(particles: Particles) -> None:
    assert len(prepared(particles, config()).state.memory) == 0
    moment = prepared(particles, config(proposal="importance", samples=3.0))
    assert len(moment.state.memory) == len(particles)
    assert moment.run.sampler is not None
    assert moment.run.sampler.samples == 3.0


@pytest.mark.parametrize("name", ["exponential", "car", "gaussian"])
def test_a_prior_is_on_the_scale_of_the_data(particles: Particles, name: str) -> None:
    moment = prepared(particles, config(prior=name))
    best = moment.state.sides[0].best.volume
    level = float(best[moment.state.mask > 0.5].square().mean().sqrt())
    assert 0.2 * level < moment.run.prior.scale < 5.0 * level  # type: ignore[attr-defined]


def test_masked_images_are_refused_by_name(tmp_path: Path) -> None:
    optics = Optics("one", electron_wavelength(300.0), 2.7e7, 0.1, PIXEL, BOX)
    particles = simulate(molecule(BOX, PIXEL), PIXEL, Simulation(5, (optics,), snr=0.3), tmp_path)
    axis = np.arange(BOX) - BOX // 2
    with mrcfile.open(tmp_path / "particles.mrcs", "r+") as mrc:
        assert mrc.data is not None
        mrc.data[3][np.hypot(*np.meshgrid(axis, axis)) > 12] = 0.0
    with pytest.raises(CryogradError, match=r"no noise outside the particle.* image 4 of .*particles\.mrcs"):
        prepared(particles, config())


@pytest.mark.parametrize(("solver", "held"), [("preconditioned", 0), ("sagd", 2), ("sgd", 2), ("em", 0)])
def test_the_papers_solvers_hold_images_out(particles: Particles, solver: str, held: int) -> None:
    run = prepared(particles, config(solver=solver)).run
    assert (0 if run.held_out is None else len(run.held_out)) == held
    both = run.sides[0].train if run.held_out is None else np.concatenate([run.held_out, run.sides[0].train])
    assert sorted(both) == list(range(len(particles)))


def test_holding_out_most_images_is_refused(particles: Particles) -> None:
    assert len(prepared(particles, config(held_out=10)).run.sides[0].train) == 10
    with pytest.raises(CryogradError, match="--held-out 11 leaves too few of 20 particles"):
        prepared(particles, config(held_out=11))


def test_a_partition_has_every_image_that_is_not_held_out_once(particles: Particles) -> None:
    members = prepared(particles, config(solver="sagd", minibatch=4)).run.sides[0]
    assert sorted(np.concatenate(members.partition)) == sorted(members.train)
    assert {len(part) for part in members.partition} <= {3, 4}


def test_minibatches_grow_where_their_gradients_would_take_too_much_memory(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(particles, config(solver="sagd", minibatch=1)).run
    assert len(run.sides[0].partition) == len(run.sides[0].train)
    monkeypatch.setattr("cryograd.engine.setup.MEMORY_BYTES", 3 * gradient_bytes(run.program.final_radius))
    run = prepared(particles, config(solver="sagd", minibatch=1)).run
    assert len(run.sides[0].partition) == 3


@pytest.mark.parametrize("solver", ["preconditioned", "sagd", "sgd", "em", "projection-matching"])
@pytest.mark.parametrize("iterations", [3, 10, 333])
def test_a_run_has_the_iterations_that_were_asked_for(
    particles: Particles, solver: str, iterations: int
) -> None:
    program = prepared(particles, config(solver=solver, iterations=iterations)).run.program
    assert program.moves == iterations
    assert min(program.count(stage) for stage in ("starts", "march", "settle")) >= 1
    assert len(program) > iterations


def test_projection_matching_among_drawn_poses_is_refused(particles: Particles) -> None:
    with pytest.raises(CryogradError, match="projection matching takes the best pose of a search"):
        prepared(particles, config(solver="projection-matching", proposal="importance"))


def test_each_start_has_a_random_volume_of_its_own_and_all_have_the_same_images(particles: Particles) -> None:
    state = prepared(particles, config(starts=3)).state
    volumes = [track.volume for track in state.sides[0].tracks]
    assert len(volumes) == 3
    for number, volume in enumerate(volumes):
        assert float(volume.abs().max()) > 0.0
        assert (volume[state.mask == 0.0] == 0.0).all()
        for other in volumes[:number]:
            assert float((volume - other).norm()) > 0.3 * float(volume.norm())
    again = prepared(particles, config(starts=3)).state.sides[0].tracks
    assert all((one == other.volume).all() for one, other in zip(volumes, again, strict=True))
    # The first starts do not depend on how many there are.
    fewer = prepared(particles, config(starts=2)).state.sides[0].tracks
    assert (fewer[1].volume == volumes[1]).all()


def test_classes_have_a_start_each_and_share_the_images(particles: Particles) -> None:
    options = {"particles": Path("particles.star"), "output": Path("out"), "classes": 3}
    moment = prepared(particles, Abinitio(**options, symmetry="D2,C1,C2"))
    tracks = moment.state.sides[0].tracks
    assert [track.symmetry for track in tracks] == ["D2", "C1", "C2"]
    assert [track.share for track in tracks] == pytest.approx([1 / 3] * 3)
    assert moment.state.table.classes.shape == (len(particles), 3)
    same = prepared(particles, Abinitio(**options, symmetry="D2")).run
    assert same.symmetries == ("D2", "D2", "D2")
    with pytest.raises(CryogradError, match="2 point groups for 3 classes"):
        prepared(particles, Abinitio(**options, symmetry="D2,C1"))
