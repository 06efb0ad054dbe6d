import math

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Complex, Float, jaxtyped
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import Projector, slice_points
from cryograd.model.shift import shift_phases
from cryograd.model.symmetry import group_matrices
from cryograd.pose import posterior
from cryograd.pose.inference import log_cell_weight
from cryograd.pose.posterior import (
    Batch,
    Cells,
    best_cells,
    evaluate_exhaustive,
    evaluate_local,
    local_statistics,
)
from cryograd.pose.product import matmul_precision
from cryograd.pose.quadrature import RotationGrid, ShiftGrid, ShiftPrior
from cryograd.rotations import random_rotations

SIZE, EXTENT, RADIUS = 16, 40.0, 5.5
DISC = HalfDisc(RADIUS)
FREQUENCIES = torch.from_numpy(DISC.frequencies / EXTENT)


@jaxtyped(typechecker=beartype)
def brute_force(
    batch: Batch,
    slices: Complex[Tensor, "b J K"],
    phases: Complex[Tensor, "b S K"],
    log_weight: Float[Tensor, "b S J"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b S J"]]:
    """Log evidence, and the responsibility of each pose, from the misfit of each pose in float64."""
    images, ctf = batch.images.to(torch.complex128), batch.ctf.double()
    predicted = ctf[:, None, None] * phases.to(torch.complex128)[:, :, None] * slices[:, None]
    misfit = (images[:, None, None] - predicted).abs().square().sum(dim=-1)
    logits = (log_weight.double() - misfit).flatten(1)
    # The log of the noise's density without the misfit is what is left of log_norm.
    constant = batch.log_norm.double() + images.abs().square().sum(dim=1)
    joint = torch.softmax(logits, dim=1).view(misfit.shape)
    return torch.logsumexp(logits, dim=1) + constant, joint


def a_volume(seed=0):
    rng = np.random.default_rng(seed)
    x = np.arange(SIZE) - SIZE // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    centres = rng.uniform(-4, 4, (12, 3))
    return torch.from_numpy(
        sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0) for a, b, c in centres)
    ).float()


def a_problem(n=5, signal=0.5, seed=0):
    """Images of a volume at random poses with unit noise, and the volume's transform."""
    rng = np.random.default_rng(seed)
    projector, points = Projector(SIZE, RADIUS), slice_points(DISC)
    grid = projector.transform(a_volume())
    rotations = torch.from_numpy(random_rotations(n, rng)).float()
    clean = projector.sample(grid, rotations, points)
    grid = grid * (signal / clean.abs().square().mean().sqrt())
    ctf = torch.from_numpy(rng.uniform(-1, 1, (n, len(DISC)))).float()
    shifts = torch.from_numpy(rng.normal(0, 2, (n, 2)))
    noise = rng.normal(size=(2, n, len(DISC))) / math.sqrt(2)
    noise = torch.from_numpy(noise[0] + 1j * noise[1]).to(torch.complex64)
    phases = shift_phases(FREQUENCIES, shifts)
    images = ctf * phases * projector.sample(grid, rotations, points) + noise
    sigma = 1.7
    log_norm = -images.abs().square().sum(dim=1) - len(DISC) * math.log(math.pi * sigma**2)
    return Batch(images, ctf, log_norm), grid, projector, points


def shared_grid(spacing=0.9):
    rotations = RotationGrid.covering(spacing, group_matrices("C1"))
    return rotations, ShiftGrid.covering(2.5, 5.0, ShiftPrior(2.0))


def exhaustive_problem(**settings):
    batch, grid, projector, points = a_problem(**settings)
    rotations, shifts = shared_grid()
    slices = projector.sample(grid, torch.from_numpy(rotations.matrices).float(), points)
    phases = shift_phases(FREQUENCIES, torch.from_numpy(shifts.shifts))
    return batch, slices, phases, torch.from_numpy(shifts.log_weights).float()


def widened(batch, slices, phases, log_shift):
    """Arguments of `brute_force` for a grid that all images share."""
    b, J = len(batch), len(slices)
    weight = (log_shift - math.log(J))[:, None].expand(-1, J)
    return batch, *(t.expand(b, *t.shape) for t in (slices, phases, weight))


@pytest.mark.parametrize("signal", [0.0, 0.3, 2.0])
def test_exhaustive_sums_agree_with_brute_force(signal):
    arguments = exhaustive_problem(signal=signal)
    batch, _, phases, _ = arguments
    log_evidence, joint = brute_force(*widened(*arguments))
    found = evaluate_exhaustive(*arguments, "highest", statistics=True)
    # Log evidence is a small difference of numbers of the size of |X|².
    size = batch.log_norm.abs().max().item()
    assert torch.allclose(found.log_evidence.double(), log_evidence, rtol=0, atol=1e-6 * size)
    assert torch.allclose(found.rotation_marginal.double(), joint.sum(dim=1), rtol=3e-4, atol=1e-7)
    assert torch.allclose(found.shift_marginal.double(), joint.sum(dim=2), rtol=3e-4, atol=1e-7)
    templates = (batch.ctf * batch.images)[:, None] * phases.conj()
    cross = torch.einsum("isj,isk->jk", joint.to(torch.complex128), templates.to(torch.complex128))
    power = torch.einsum("isj,ik->jk", joint, batch.ctf.double().square())
    assert torch.linalg.norm(found.cross - cross) < 1e-4 * torch.linalg.norm(cross)
    assert torch.linalg.norm(found.power - power) < 1e-4 * torch.linalg.norm(power)


def test_blocks_of_images_do_not_change_the_result(monkeypatch):
    arguments = exhaustive_problem(n=7)
    whole = evaluate_exhaustive(*arguments, "highest", statistics=True)
    monkeypatch.setattr(posterior, "BLOCK_BYTES", 1)
    single = evaluate_exhaustive(*arguments, "highest", statistics=True)
    for name in ("rotation_marginal", "shift_marginal", "log_evidence", "cross", "power"):
        assert torch.allclose(getattr(whole, name), getattr(single, name), rtol=1e-4, atol=1e-4), name


def test_statistics_only_when_asked_for():
    found = evaluate_exhaustive(*exhaustive_problem(), "highest", statistics=False)
    assert found.cross is None
    assert found.power is None


def test_bfloat16_is_a_hundred_times_below_the_noise():
    # Many noise realisations of the same images: how much the noise moves the log evidence, less its mean
    # over all poses, and how much the rounding does.
    batch, slices, phases, log_shift = exhaustive_problem(n=1, signal=0.5)
    n, generator = 40, torch.Generator().manual_seed(0)
    noise = torch.randn(n, len(DISC), dtype=torch.complex64, generator=generator)
    repeated = Batch(batch.images + noise, batch.ctf.expand(n, -1), torch.zeros(n))
    exact, rounded = (
        evaluate_exhaustive(repeated, slices, phases, log_shift, precision, statistics=False).log_evidence
        for precision in ("highest", "medium")
    )
    assert (exact - rounded).std() < 0.01 * exact.std()

    # The same of every single score, whether or not this machine's products round to bfloat16.
    templates = posterior.shifted_templates(repeated, phases)
    real_slices = posterior.as_real(slices)
    with matmul_precision("highest"):
        scores = templates @ real_slices.T
        bfloat16 = templates.bfloat16().float() @ real_slices.bfloat16().float().T
    assert (bfloat16 - scores).std() < 0.01 * scores.std(dim=0).mean()
    assert (bfloat16 - scores).std() > 0.0


def local_problem(cells, signal=0.5):
    batch, grid, projector, points = a_problem(n=len(cells.rotations), signal=signal)
    b, m = cells.rotations.shape[:2]
    log_prior = -0.5 * cells.shifts.square().sum(dim=-1) / 2.0**2
    log_rotation = torch.linspace(-1.0, 1.0, m).expand(b, m)
    local = evaluate_local(batch, cells, grid, projector, points, FREQUENCIES, log_rotation, log_prior)
    slices = projector.sample(grid, cells.rotations.reshape(-1, 3, 3), points).view(b, m, -1)
    phases = shift_phases(FREQUENCIES, cells.shifts)
    log_weight = log_prior.double()[:, :, None] + log_rotation.double()[:, None]
    log_evidence, joint = brute_force(batch, slices, phases, log_weight)
    return batch, local, slices, phases, log_evidence, joint


def random_cells(b=3, m=9, s=6, seed=1):
    rng = np.random.default_rng(seed)
    rotations = torch.from_numpy(random_rotations(b * m, rng)).float().view(b, m, 3, 3)
    return Cells(rotations, torch.from_numpy(rng.normal(0, 2, (b, s, 2))).float(), 0.3, 1.0)


def test_local_posterior_agrees_with_brute_force():
    batch, local, _, _, log_evidence, joint = local_problem(random_cells())
    size = batch.log_norm.abs().max().item()
    found = (local.log_evidence + batch.log_norm).double()
    assert torch.allclose(found, log_evidence, rtol=0, atol=1e-6 * size)
    assert torch.allclose(local.joint.double(), joint, rtol=3e-4, atol=1e-7)


def test_local_statistics_and_residual_agree_with_brute_force(monkeypatch):
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 0.0)
    cells = random_cells()
    batch, local, slices, phases, _, joint = local_problem(cells)
    statistics, fit = local_statistics(batch, cells, local)
    assert torch.equal(statistics.rotations, cells.rotations.flatten(0, 1))
    assert torch.equal(statistics.slices, slices.flatten(0, 1))
    templates = ((batch.ctf * batch.images)[:, None] * phases.conj()).to(torch.complex128)
    cross = torch.einsum("isj,isk->ijk", joint.to(torch.complex128), templates).flatten(0, 1)
    power = torch.einsum("isj,ik->ijk", joint, batch.ctf.double().square()).flatten(0, 1)
    assert torch.linalg.norm(statistics.cross - cross) < 1e-4 * torch.linalg.norm(cross)
    assert torch.linalg.norm(statistics.power - power) < 1e-4 * torch.linalg.norm(power)
    predicted = batch.ctf[:, None, None] * phases[:, :, None] * slices[:, None]
    misfit = (batch.images[:, None, None] - predicted).abs().square().double()
    assert torch.allclose(
        fit.residual.double(), torch.einsum("isj,isjk->ik", joint, misfit), rtol=1e-3, atol=1e-4
    )
    match = (predicted.conj() * batch.images[:, None, None]).real.sum(dim=-1).double()
    energy = predicted.abs().square().sum(dim=-1).double()
    assert torch.allclose(fit.match.double(), (joint * match).sum(dim=(1, 2)), rtol=1e-4)
    assert torch.allclose(fit.energy.double(), (joint * energy).sum(dim=(1, 2)), rtol=1e-4)


def test_negligible_rotations_are_dropped_and_every_image_counts_once(monkeypatch):
    cells = random_cells(m=40)
    batch, local, _, phases, _, joint = local_problem(cells, signal=1.0)
    monkeypatch.setattr(posterior, "NEGLIGIBLE", 0.02)
    statistics, _ = local_statistics(batch, cells, local)
    marginal = joint.sum(dim=1)
    assert len(statistics.rotations) == int((marginal > 0.02).sum()) < marginal.numel()
    # Σ_j a_j is Σ_i C_i².
    assert torch.allclose(statistics.power.sum(dim=0), batch.ctf.square().sum(dim=0), rtol=1e-5)
    kept = torch.where(marginal > 0.02, 1.0, 0.0)[:, None] * joint
    kept = (kept / kept.sum(dim=(1, 2), keepdim=True)).sum(dim=2)
    templates = ((batch.ctf * batch.images)[:, None] * phases.conj()).to(torch.complex128)
    cross = torch.einsum("is,isk->k", kept.to(torch.complex128), templates)
    assert torch.linalg.norm(statistics.cross.sum(dim=0) - cross) < 1e-4 * torch.linalg.norm(cross)


def test_best_cells_are_the_most_probable_ones():
    generator = torch.Generator().manual_seed(0)
    by_rotation = torch.rand(4, 30, generator=generator)
    by_shift = torch.rand(4, 10, generator=generator)
    rotations = torch.from_numpy(random_rotations(30, np.random.default_rng(0)))
    shifts = torch.rand(10, 2, generator=generator)
    cells = best_cells(rotations, shifts, by_rotation, by_shift, (5, 99), (0.2, 1.0))
    assert cells.rotations.shape == (4, 5, 3, 3)
    assert cells.shifts.shape == (4, 10, 2)
    for i in range(4):
        assert torch.equal(cells.rotations[i], rotations[by_rotation[i].argsort(descending=True)[:5]])
    # From candidates of each image's own, the same.
    again = best_cells(
        rotations.expand(4, -1, -1, -1), shifts.expand(4, -1, -1), by_rotation, by_shift, (5, 99), (0.2, 1.0)
    )
    assert torch.equal(again.rotations, cells.rotations)
    assert torch.equal(again.shifts, cells.shifts)


def test_split_cells_carry_the_weight_of_their_parents():
    rotations, shifts = shared_grid()
    everything = Cells(
        torch.from_numpy(rotations.matrices)[None],
        torch.from_numpy(shifts.shifts)[None],
        rotations.spacing,
        shifts.spacing,
    )
    for cells in (everything, everything.split()):
        prior = shifts.prior.log_density(cells.shifts.square().sum(dim=-1)).exp().sum()
        total = cells.rotations.shape[1] * prior * math.exp(log_cell_weight(cells, rotations, shifts))
        # The children sample the prior more finely than their parents, and reach beyond the circle.
        assert total.item() == pytest.approx(1.0, abs=1e-9 if cells is everything else 0.1)


def test_no_image_is_dropped_for_a_flat_posterior():
    """Of 1536 equally probable rotations each has less than the negligible responsibility."""
    batch, cells, projector, grid = local_problem_flat(1536)
    local = evaluate_local(
        batch,
        cells,
        grid,
        projector,
        slice_points(DISC),
        FREQUENCIES,
        torch.zeros(1, 1),
        torch.zeros(1, cells.shifts.shape[1]),
    )
    statistics, fit = local_statistics(batch, cells, local)
    assert statistics.image is not None
    assert torch.bincount(statistics.image).tolist() == [1536, 1536]
    total = torch.zeros(2, len(DISC)).index_add(0, statistics.image, statistics.power)
    assert torch.allclose(total, batch.ctf.square(), rtol=1e-4)
    assert torch.allclose(fit.residual, batch.images.abs().square(), rtol=1e-4)


def local_problem_flat(rotations):
    """Two images of noise and an empty volume: every pose is as good."""
    generator = torch.Generator().manual_seed(0)
    images = torch.complex(*torch.randn(2, 2, len(DISC), generator=generator))
    batch = Batch(images, 0.5 + torch.rand(2, len(DISC), generator=generator), torch.zeros(2))
    turns = random_rotations(2 * rotations, np.random.default_rng(0)).reshape(2, rotations, 3, 3)
    cells = Cells(torch.from_numpy(turns).float(), torch.zeros(2, 3, 2), 0.1, 1.0)
    projector = Projector(SIZE, RADIUS)
    return batch, cells, projector, projector.transform(torch.zeros(SIZE, SIZE, SIZE))
