"""The Hessian of the marginal likelihood against finite differences of a plain log-sum-exp's gradient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels
from cryograd.rotations import random_rotations
from cryograd.validation.conditioning import FixedPoseHessian
from cryograd.validation.marginal_hessian import MarginalHessian

RADIUS = 3.0


def a_case(
    interpolation="linear",
    images=4,
    rotations=6,
    shifts=3,
    noise=1.0,
    shared=False,
    signal=0.4,
    radius=RADIUS,
):
    """Images of random voxels at the first candidate of each, and the Hessian at the truth."""
    rng = np.random.default_rng(0)
    voxels, disc = FourierVoxels(radius, interpolation), HalfDisc(radius)
    values = torch.complex(*(torch.from_numpy(rng.normal(0, signal, len(voxels))) for _ in range(2)))
    sets = 1 if shared else images
    turns = torch.from_numpy(random_rotations(sets * rotations, rng).reshape(sets, rotations, 3, 3))
    offsets = torch.from_numpy(rng.normal(0, 0.1, (shifts, 2)))
    angle = 2 * math.pi * offsets @ torch.from_numpy(disc.frequencies).double().T
    phases = torch.polar(torch.ones_like(angle), angle)
    ctf = torch.from_numpy(rng.uniform(0.2, 1.0, (images, len(disc))))
    points = slice_points(disc, dtype=torch.float64)
    true = torch.stack([voxels.slices(values, turns[i % sets, :1], points)[0] for i in range(images)])
    n = torch.complex(*(torch.from_numpy(rng.normal(0, noise, true.shape)) for _ in range(2)))
    log_prior = torch.from_numpy(rng.normal(size=(rotations, shifts)))
    return MarginalHessian(voxels, values, phases[0] * ctf * true + n, ctf, turns, phases, log_prior)


def minus_log_likelihood(case, values):
    """−(1/n) Σ log Σ_jl w_jl exp(−‖X_i − C_i T_l P_j v‖²), term by term."""
    points, total = slice_points(HalfDisc(RADIUS), dtype=torch.float64), 0.0
    for i, image in enumerate(case.images):
        turns = case.rotations[i % len(case.rotations)]
        slices = case.voxels.slices(values, turns, points)
        terms = [
            case.log_prior[j, ell] - (image - case.ctf[i] * phase * slices[j]).abs().square().sum()
            for j in range(len(turns))
            for ell, phase in enumerate(case.phases)
        ]
        total = total - torch.logsumexp(torch.stack(terms), dim=0)
    return total / len(case.images)


def gradient(case, values):
    variable = values.clone().requires_grad_()
    (found,) = torch.autograd.grad(minus_log_likelihood(case, variable), variable)
    return found


def a_vector(case, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.complex(*torch.randn(2, len(case.voxels), dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_product_is_the_derivative_of_the_gradient(interpolation, shared):
    case = a_case(interpolation, shared=shared)
    assert min(float(gamma.max()) for gamma in case.posteriors) < 0.9
    w, step = a_vector(case, 1), 1e-5
    found = case @ w
    expected = (gradient(case, case.values + step * w) - gradient(case, case.values - step * w)) / (2 * step)
    assert torch.allclose(found, expected, rtol=0, atol=1e-7 * float(expected.abs().max()))
    assert (case.complete(w) - found).abs().max() > 0.1 * found.abs().max()


def test_the_hessian_is_symmetric():
    case = a_case()
    a, b = a_vector(case, 1), a_vector(case, 2)
    left = (a.conj() * (case @ b)).sum().real
    assert float(left) == pytest.approx(float((b.conj() * (case @ a)).sum().real), rel=1e-10)


def test_with_one_pose_it_is_twice_the_hessian_at_known_poses():
    case = a_case(images=5, rotations=1, shifts=1)
    no_dc = torch.nn.functional.pad(case.ctf.square(), (1, 0))
    known = FixedPoseHessian.of(case.voxels, case.rotations[:, 0], no_dc, 0.0)
    w = a_vector(case, 3)
    assert torch.allclose(case @ w, 2.0 * (known @ w), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("signal", "at_truth"), [(3.0, True), (0.7, True), (3.0, False)])
def test_missing_poses_lower_the_least_eigenvalue_below_zero_far_from_the_optimum(signal, at_truth):
    case = a_case(images=30, rotations=3, shifts=1, noise=0.7, signal=signal, radius=2.0)
    if not at_truth:
        case = replace(case, values=0.05 * a_vector(case, 4))
    n = len(case.voxels)
    square = (case.voxels.frequencies**2).sum(axis=1)
    keep = torch.from_numpy(np.flatnonzero(np.tile((square > 0) & (square <= 4.0), 2)))
    least = {}
    for missing in (False, True):
        product = case.__matmul__ if missing else case.complete
        columns = [product(torch.complex(e[:n], e[n:])) for e in torch.eye(2 * n, dtype=torch.float64)[keep]]
        matrix = torch.stack([torch.cat([c.real, c.imag]) for c in columns], dim=1)[keep]
        exact = torch.linalg.eigvalsh(matrix)
        found = case.extreme_eigenvalues(missing)
        assert found.least == pytest.approx(float(exact[0]), rel=0.01)
        assert found.largest == pytest.approx(float(exact[-1]), rel=0.01)
        least[missing] = found.least
    assert least[False] > 0.0
    if signal == 3.0 and at_truth:
        # The images tell their poses, and nothing is missing.
        assert least[True] == pytest.approx(least[False], rel=0.05)
    else:
        assert least[True] < 0.0
