"""Classes: their probabilities, and what images count for that belong to one in part."""

from dataclasses import replace

import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.symmetry import group_matrices
from cryograd.objective.likelihood import Halves, MarginalLikelihood
from cryograd.objective.mixture import Mixture, memberships, mixture
from cryograd.pose import posterior
from cryograd.pose.posterior import Batch
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, ShiftPrior
from cryograd.pose.search import Level, Search

SIZE, EXTENT, RADIUS = 12, 30.0, 4.5
OBJECTIVE = MarginalLikelihood(SIZE, EXTENT, RADIUS)
GRID = RotationGrid.covering(1.2, group_matrices("C1"))
SHIFTS = ShiftGrid.covering(3.0, 3.5, ShiftPrior(2.0))
SHARED = Search(RADIUS, GRID, SHIFTS)
# All cells are kept, so that the quadrature does not depend on the map.
REFINED = replace(SHARED, levels=(Level(10**6, 10**6, RADIUS),))


def blobs(seed: int) -> torch.Tensor:
    """A smooth random volume."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.fftn(torch.rand(SIZE, SIZE, SIZE, generator=generator) ** 8)
    axis = torch.fft.fftfreq(SIZE) * SIZE
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(dim=0)
    return 0.04 * torch.fft.ifftn(spectrum * torch.exp(-radius / 20.0)).real


def a_batch(n: int = 6) -> Batch:
    """Images of two volumes in turn at poses of the grid, with unit noise."""
    generator = torch.Generator().manual_seed(3)
    projector, disc = Projector(SIZE, RADIUS), HalfDisc(RADIUS)
    rotations = torch.as_tensor(GRID.matrices[:n], dtype=torch.float32)
    both = [projector.sample(projector.transform(blobs(s)), rotations, slice_points(disc)) for s in (0, 1)]
    slices = torch.where(torch.arange(n)[:, None] % 2 == 0, *both)
    noise = torch.randn(n, len(disc), dtype=torch.complex64, generator=generator)
    ctf = 0.5 + torch.rand(n, len(disc), generator=generator)
    return Batch(ctf * slices + noise, ctf, torch.arange(float(n)))


def mixed(volumes: list[torch.Tensor], shares: list[float], batch: Batch, search: Search) -> Mixture:
    """The mixture of some maps."""
    return mixture([OBJECTIVE.poses(volume, batch, search) for volume in volumes], shares)


def test_probabilities_follow_bayes_rule() -> None:
    evidence, share = torch.tensor([[-3.0, 2.0, 0.0], [-4.0, 5.0, 0.0]]), torch.tensor([[0.25], [0.75]])
    found = memberships(evidence, share.log(), temperature=2.0)
    expected = share * (0.5 * evidence).exp()
    torch.testing.assert_close(found, (expected / expected.sum(dim=0)).double())


def test_probabilities_add_up_and_no_class_is_without_images() -> None:
    evidence = torch.stack([torch.zeros(50), torch.full((50,), -1e4), torch.linspace(-3.0, 3.0, 50)])
    found = memberships(evidence, torch.full((3, 1), 1 / 3).log())
    torch.testing.assert_close(found.sum(dim=0), torch.ones(50, dtype=torch.float64))
    assert (found > 0.0).all()


def test_even_classes_have_the_same_share_and_keep_the_order_of_images() -> None:
    generator = torch.Generator().manual_seed(0)
    evidence = 5.0 * torch.randn(3, 400, generator=generator) + torch.tensor([[0.0], [20.0], [-9.0]])
    found = memberships(evidence, torch.zeros(3, 1), even=True)
    torch.testing.assert_close(
        found.mean(dim=1), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.01, rtol=0
    )
    torch.testing.assert_close(found.sum(dim=0), torch.ones(400, dtype=torch.float64))
    # Each class has a factor and no more.
    odds = (found[0] / found[1]).log() - (evidence[0] - evidence[1])
    torch.testing.assert_close(odds, odds.mean().expand(400), atol=1e-4, rtol=0)


@pytest.mark.parametrize("search", [SHARED, REFINED], ids=["shared", "refined"])
def test_weighted_images_have_the_gradient_of_the_mixture(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along a direction, against a difference quotient of −(1/B) Σ log Σ_c π_c p(X | V_c)."""
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 0.0)
    batch, volumes, shares = a_batch(), [blobs(0), blobs(1)], [0.3, 0.7]
    found = mixed(volumes, shares, batch, search)
    assert found.probabilities.min(dim=0).values.max() > 0.05
    every = torch.ones(len(batch), dtype=torch.bool)
    counted = batch.counted(found.probabilities[0], every)
    gradient = OBJECTIVE.mean(OBJECTIVE.evaluate(volumes[0], counted, search).sums).gradient
    direction = gradient / gradient.norm()

    def value(step: float) -> float:
        moved = mixed([volumes[0] + step * direction, volumes[1]], shares, batch, search)
        return -float(moved.poses.log_evidence.double().mean())

    assert (value(0.001) - value(-0.001)) / 0.002 == pytest.approx(float(gradient.norm()), rel=0.01)


@pytest.mark.parametrize("search", [SHARED, REFINED], ids=["shared", "refined"])
def test_an_image_of_weight_two_is_two_images(search: Search) -> None:
    batch, volume, upper = a_batch(4), blobs(2), torch.tensor([True, False, False, True])
    times = torch.tensor([1, 2, 0, 3])
    copies = torch.arange(4).repeat_interleave(times)
    expected = OBJECTIVE.evaluate(volume, batch.part(copies), search, Halves(blobs(3), upper[copies]))
    mine = batch.counted(times, times > 0)
    found = OBJECTIVE.evaluate(volume, mine, search, Halves(blobs(3), upper[times > 0]))
    assert len(mine) == 3
    assert found.sums.log_evidence == pytest.approx(expected.sums.log_evidence, rel=1e-6)
    again = OBJECTIVE.log_evidence(volume, mine, found.posesets)
    assert again == pytest.approx(expected.sums.log_evidence, rel=1e-5)
    mean, whole = OBJECTIVE.mean(replace(found.sums, images=6)), OBJECTIVE.mean(expected.sums)
    assert mean.value == pytest.approx(whole.value, rel=1e-6)
    torch.testing.assert_close(mean.gradient, whole.gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean.curvature, whole.curvature, rtol=1e-4, atol=1e-3)
    assert (mean.slope is None) == (search == SHARED)
    if mean.slope is not None:
        assert whole.slope is not None
        torch.testing.assert_close(mean.slope, whole.slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("search", [SHARED, REFINED], ids=["shared", "refined"])
def test_weights_of_one_change_no_byte(search: Search) -> None:
    batch, halves = a_batch(), Halves(blobs(3), torch.arange(6) % 2 == 0)
    every = torch.ones(len(batch))
    plain, counted = (
        OBJECTIVE.mean(OBJECTIVE.evaluate(blobs(2), images, search, halves).sums)
        for images in (batch, batch.counted(every, every > 0))
    )
    assert counted.value == plain.value
    assert torch.equal(counted.gradient, plain.gradient)
    assert torch.equal(counted.curvature, plain.curvature)


def test_a_mixture_of_one_map_is_that_map() -> None:
    batch, search = a_batch(), REFINED
    found, expected = (
        mixed([blobs(0)], [1.0], batch, search),
        OBJECTIVE.poses(blobs(0), batch, search),
    )
    assert (found.probabilities == 1.0).all()
    for name, values in vars(expected).items():
        assert torch.equal(getattr(found.poses, name), values), name
