"""Which image counts in which track."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cryograd.config import Abinitio
from cryograd.data.particles import Particles
from cryograd.engine.program import Step
from cryograd.engine.rivalry import (
    EVIDENCE_RATE,
    LEAST_SHARE,
    classified,
    competed,
    for_class,
    for_start,
    together,
)
from cryograd.engine.run import Run
from cryograd.engine.state import State, Track
from cryograd.errors import CryogradError
from cryograd.objective.likelihood import Evaluation
from cryograd.objective.mixture import mixture
from cryograd.objective.sums import Sums
from cryograd.pose.posterior import Batch, Poses
from cryograd.recipe import abinitio
from cryograd.solvers.em import EMState
from refinement import before, simulated

B, K = 6, 10


def track(number: int, **values: Any) -> Track:
    """A map that says its number."""
    return Track("C1", torch.full((4, 4, 4), float(number)), EMState(), **values)


def poses_of(log_evidence: torch.Tensor, angle: float = 0.0) -> Poses:
    """Poses of images, a turn around z that says whose they are."""
    n, one = len(log_evidence), torch.ones(len(log_evidence))
    turn = torch.tensor(
        [[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]]
    )
    rotations = turn.float().expand(n, 1, 3, 3)
    return Poses(rotations, torch.zeros(n, 1, 2), one[:, None], log_evidence, 0.0 * one, *[one] * 4)


def evaluation(log_evidence: float, residual: float | None = 1.0, images: int = B) -> Evaluation:
    """An evaluation of images of which nothing but the evidence and the residual matters."""
    nothing = torch.zeros(0)
    return Evaluation(
        sums=Sums(images, log_evidence, nothing, nothing),
        posesets=(),
        poses=poses_of(torch.full((images,), log_evidence / images)),
        residual=None if residual is None else torch.full((images, 3), residual),
        marginals=[],
        points=1.0,
    )


def numbers(tracks: tuple[Track, ...]) -> list[int]:
    return [int(track.volume[0, 0, 0]) for track in tracks]


def test_starts_of_least_evidence_are_dropped() -> None:
    pairs = [(track(n), evaluation(value, float(n))) for n, value in enumerate((-30.0, -10.0, -40.0, -20.0))]
    found = competed(pairs, K, survivors=2)
    assert numbers(found.tracks) == [1, 3]
    assert [one.evidence for one in found.tracks] == pytest.approx([-10.0 / (B * K), -20.0 / (B * K)])
    # What is said of the images is what the best says.
    assert found.probabilities is None
    assert float(found.poses.log_evidence.sum()) == pytest.approx(-10.0)
    assert found.residual is not None
    assert (found.residual == 1.0).all()
    assert numbers(competed(pairs, K, survivors=4).tracks) == [1, 3, 0, 2]


def test_a_start_is_judged_by_a_running_mean_over_its_minibatches() -> None:
    """One minibatch of bad luck drops no start that was better before."""
    before = [track(0, evidence=-1.0), track(1, evidence=-3.0)]
    pairs = list(zip(before, [evaluation(-3.0 * B * K), evaluation(-1.0 * B * K)], strict=True))
    found = competed(pairs, K, survivors=2)
    assert numbers(found.tracks) == [0, 1]
    expected = [-1.0 - 2.0 * EVIDENCE_RATE, -3.0 + 2.0 * EVIDENCE_RATE]
    assert [one.evidence for one in found.tracks] == pytest.approx(expected)
    for _ in range(6):
        pairs = [
            (one, evaluation(-3.0 * B * K if numbers((one,)) == [0] else -B * K)) for one in found.tracks
        ]
        found = competed(pairs, K, survivors=2)
    assert numbers(found.tracks) == [1, 0]


def test_evidence_does_not_jump_where_images_have_more_coefficients() -> None:
    few, many = (
        competed([(track(0), evaluation(-2.0 * B * k))], k, 1).tracks[0].evidence for k in (10, 1000)
    )
    assert few == pytest.approx(many)


def test_classes_go_on_with_what_they_took_and_their_shares_are_running_means() -> None:
    evidence = torch.tensor([[0.0, 2.0, -3.0, 0.0, 1.0, 9.0], [0.0, -1.0, 4.0, 1.0, 1.0, -9.0]])
    posterior = mixture([poses_of(row, float(n)) for n, row in enumerate(evidence)], [0.5, 0.5])
    batch = Batch(torch.zeros(B, K, dtype=torch.complex64), torch.ones(B, K), torch.zeros(B))
    takes = [for_class(batch, row, fed=True) for row in posterior.probabilities]
    found = [
        replace(evaluation(-1.0, 2.0 + n, int(take.which.sum())), points=7.0) for n, take in enumerate(takes)
    ]
    trios = [(track(n, share=share), found[n], takes[n]) for n, share in enumerate((0.9, 0.1))]
    outcome = together(trios, posterior, rate=0.25)
    assert numbers(outcome.tracks) == [0, 1]
    share = posterior.probabilities.mean(dim=1).tolist()
    assert [one.share for one in outcome.tracks] == pytest.approx(
        [0.75 * 0.9 + 0.25 * share[0], 0.75 * 0.1 + 0.25 * share[1]]
    )
    assert sum(one.share for one in outcome.tracks) == pytest.approx(1.0)
    assert torch.equal(outcome.probabilities, posterior.probabilities)  # type: ignore[arg-type]
    # The residual is a mean over the classes: 2 in the first, 3 in the second, where each took the image.
    assert outcome.residual is not None
    expected = (
        2.0 * posterior.probabilities[0] * takes[0].which + 3.0 * posterior.probabilities[1] * takes[1].which
    )
    torch.testing.assert_close(outcome.residual[:, 0].double(), expected, rtol=1e-5, atol=1e-6)
    # Poses are those of the likelier class.
    turned = outcome.poses.rotations[:, 1, 0] > 0.5
    assert turned.tolist() == (evidence[1] > evidence[0]).tolist()


def test_a_class_takes_the_images_that_may_belong_to_it_with_their_weights() -> None:
    batch = Batch(torch.randn(B, K, dtype=torch.complex64), torch.ones(B, K), torch.arange(float(B)))
    probability = torch.tensor([0.9, 1e-9, 0.5, 1e-4, 0.002, 0.0], dtype=torch.float64)
    take = for_class(batch, probability, fed=True)
    assert take.which.tolist() == [True, False, True, False, True, False]
    assert take.share == pytest.approx(float(probability.mean()))
    assert take.images.counts.tolist() == pytest.approx([0.9, 0.5, 0.002])
    whole = for_start(batch)
    assert whole.which.all()
    assert whole.share == 1.0
    assert whole.images is batch


def test_an_empty_class_is_fed_the_images_that_are_the_nearest_to_it() -> None:
    batch = Batch(torch.randn(B, K, dtype=torch.complex64), torch.ones(B, K), torch.arange(float(B)))
    probability = torch.tensor([1e-12, 1e-9, 1e-30, 1e-9, 1e-40, 1e-13], dtype=torch.float64)
    take = for_class(batch, probability, fed=True)
    assert take.which.tolist() == [False, True, False, True, False, False]
    # Together they count as much as the least share of the minibatch.
    assert float(take.images.counts.sum()) == pytest.approx(LEAST_SHARE * B, rel=1e-3)
    # What the last pass adds up does not depend on how its images are divided.
    assert float(for_class(batch, probability, fed=False).images.counts.sum()) == pytest.approx(
        float(probability.sum()), rel=1e-3
    )
    # What is said of its share is the truth.
    assert take.share == pytest.approx(float(probability.mean()))


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return simulated(tmp_path_factory.mktemp("simulated"))


def classes_of(particles: Particles, divided: bool, **options: Any) -> tuple[Run, State]:
    """A run of classes from random starts, which may divide its images at their first visit."""
    moment = before(abinitio(particles, Abinitio(particles=particles.source, **options)))
    return replace(moment.run, divided=divided), moment.state


STEP = Step("march", 0, 5.0, temperature=1.0)


def evidence(n: int, best: int) -> Callable[[Track], Poses]:
    """Poses of which one class has more evidence, the one that asks as the so manieth."""
    asked = iter(range(9))
    return lambda track: poses_of(torch.full((n,), 4.0 if next(asked) == best else 1.0))


@pytest.mark.parametrize("divided", [False, True])
def test_probabilities_of_classes_add_up_to_one(particles: Particles, divided: bool) -> None:
    run, state = classes_of(particles, divided, classes=3)
    state.table.visited[::2] = True
    indices = np.arange(0, 90, 3)
    found = classified(run, state, 0, STEP, indices, evidence(30, 1)).probabilities
    assert found.shape == (3, 30)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(30, dtype=torch.float64))
    # Images that were seen before, or are not divided, follow Bayes' rule: the shares are a third each.
    known = torch.from_numpy(state.table.visited[indices] | (not divided))
    best = np.exp(4.0) / (np.exp(4.0) + 2.0 * np.exp(1.0))
    torch.testing.assert_close(found[1, known], torch.full((int(known.sum()),), best, dtype=torch.float64))
    assert bool((found[:, ~known].max(dim=0).values > 0.99999).all())


def test_images_are_divided_at_their_first_visit_by_seed_and_particle_about_evenly(
    particles: Particles,
) -> None:
    run, state = classes_of(particles, True, classes=3)
    n = len(particles)
    every_image = np.arange(n)

    def given(run: Run, indices: np.ndarray) -> np.ndarray:
        found = classified(run, state, 0, STEP, indices, evidence(len(indices), 0)).probabilities
        return found.argmax(dim=0).numpy()

    found = given(run, every_image)
    counts = np.bincount(found, minlength=3)
    # Three standard deviations of a third of 240 images are 22.
    assert np.abs(counts - n / 3).max() < 22
    # Whatever else is in the minibatch, and whatever the step.
    some = np.array([200, 3, 17, 90])
    assert given(run, some).tolist() == found[some].tolist()
    other = given(replace(run, seed=1), every_image)
    assert 0.2 < np.mean(other == found) < 0.5
    # Not by their order.
    assert np.mean(found[1:] == found[:-1]) == pytest.approx(1 / 3, abs=0.1)


def test_even_classes_of_a_step_have_equal_shares(particles: Particles) -> None:
    run, state = classes_of(particles, False, classes=2)
    spread = torch.linspace(-3.0, 5.0, 50)
    rows = iter([spread, torch.zeros(50)])
    found = classified(
        run, state, 0, replace(STEP, even=True), np.arange(50), lambda track: poses_of(next(rows))
    )
    torch.testing.assert_close(
        found.probabilities.mean(dim=1), torch.tensor([0.5, 0.5]).double(), rtol=0, atol=0.01
    )


def test_classes_whose_evidence_is_no_number_end_the_run(particles: Particles) -> None:
    """As with minibatches of few noisy images, whose maps leave all bounds."""
    run, state = classes_of(particles, False, classes=2)
    rows = iter([torch.full((10,), float("nan")), torch.zeros(10)])
    with pytest.raises(CryogradError, match=r"a map is no longer finite.*iteration 1"):
        classified(run, state, 0, STEP, np.arange(10), lambda track: poses_of(next(rows)))
