import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Float32, jaxtyped
from torch import Tensor

from cryograd.pose.epilogue import softmax_poses
from cryograd.threads import set_threads


@jaxtyped(typechecker=beartype)
def checked(
    scores: Float32[Tensor, "b S J"], power: Float32[Tensor, "b J"], log_shift: Float32[Tensor, " S"]
) -> tuple[Float32[Tensor, " b"], Float32[Tensor, "b J"], Float32[Tensor, "b S"]]:
    return softmax_poses(scores, power, log_shift)


def reference(scores, power, log_shift):
    """Evidence, joint responsibilities and both marginals in float64."""
    logits = 2.0 * scores.double() - power.double()[:, None] + log_shift.double()[:, None]
    joint = torch.softmax(logits.flatten(1), dim=1).view(logits.shape)
    return torch.logsumexp(logits.flatten(1), dim=1), joint, joint.sum(dim=1), joint.sum(dim=2)


def problem(spread, shape=(3, 5, 77), seed=0):
    generator = torch.Generator().manual_seed(seed)
    b, n_shifts, n_rotations = shape
    scores = spread * torch.randn(shape, generator=generator)
    power = spread * (1.0 + torch.rand(b, n_rotations, generator=generator))
    return scores, power, torch.log_softmax(torch.randn(n_shifts, generator=generator), dim=0)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 40.0, 1000.0])
@pytest.mark.parametrize("shape", [(3, 5, 77), (1, 1, 1), (2, 21, 1000)])
def test_agrees_with_float64(spread, shape):
    scores, power, log_shift = problem(spread, shape)
    log_evidence, joint, by_rotation, by_shift = reference(scores, power, log_shift)
    found = checked(scores, power, log_shift)
    # A logit of size s is rounded by 6e-8 s.
    tolerance = 2e-6 + 4e-7 * spread
    assert torch.allclose(found[0].double(), log_evidence, rtol=0, atol=1e-6 + 1e-6 * spread)
    assert torch.allclose(found[1].double(), by_rotation, rtol=tolerance, atol=1e-9 + 1e-6 * tolerance)
    assert torch.allclose(found[2].double(), by_shift, rtol=tolerance, atol=1e-9 + 1e-6 * tolerance)
    # The scores have become the responsibilities, up to one factor an image.
    normalised = scores / scores.sum(dim=(1, 2), keepdim=True)
    assert torch.allclose(normalised.double(), joint, rtol=2 * tolerance, atol=1e-9)


def test_exponential_is_right_over_its_whole_range():
    # One shift, and rotations whose logits fall below the best one by up to 69, the bound.
    logits = torch.linspace(-69.0, 0.0, 20001)
    power = -logits[None]
    _, marginal, _ = checked(torch.zeros(1, 1, 20001), power, torch.zeros(1))
    expected = torch.softmax(logits.double(), dim=0)
    assert torch.allclose(marginal[0].double(), expected, rtol=1e-5, atol=1e-30)


def test_impossible_poses_get_nothing():
    power = torch.tensor([[0.0, 500.0]])
    log_evidence, by_rotation, by_shift = checked(torch.zeros(1, 2, 2), power, torch.tensor([0.0, -1e4]))
    assert log_evidence.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.allclose(by_rotation, torch.tensor([[1.0, 0.0]]), rtol=1e-6, atol=1e-29)
    assert torch.allclose(by_shift, torch.tensor([[1.0, 0.0]]), rtol=1e-6, atol=1e-29)


def test_no_responsibility_is_subnormal():
    # Arithmetic on subnormal numbers is many times slower, and most poses of an image are impossible.
    scores = torch.zeros(1, 2, 5000)
    checked(scores, torch.linspace(0.0, 500.0, 5000)[None], torch.tensor([0.0, -1e4]))
    assert float(scores.min()) > 2.0 * torch.finfo(torch.float32).tiny


def test_marginals_are_normalised_and_agree_for_any_number_of_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            set_threads(threads)
            scores, power, log_shift = problem(10.0, (3, 21, 9000))
            results.append(b"".join(t.numpy().tobytes() for t in checked(scores, power, log_shift)))
    finally:
        set_threads(before)
    assert results[0] == results[1]
    scores, power, log_shift = problem(10.0, (3, 21, 9000))
    _, by_rotation, by_shift = checked(scores, power, log_shift)
    assert np.allclose(by_rotation.sum(dim=1), 1.0, atol=1e-5)
    assert np.allclose(by_shift.sum(dim=1), 1.0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_agrees_with_the_cpu():
    scores, power, log_shift = problem(10.0)
    on_device = softmax_poses(scores.cuda(), power.cuda(), log_shift.cuda())
    for a, b in zip(softmax_poses(scores, power, log_shift), on_device, strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-4, atol=1e-6)
