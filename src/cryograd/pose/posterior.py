"""Posterior over poses: exhaustive on a shared grid, then refined cell by cell for each image.

Everything here is whitened: images and CTFs are divided by the standard deviation of the noise.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from cryograd.model.projection import Projector
from cryograd.model.shift import shift_phases
from cryograd.pose.epilogue import softmax_poses
from cryograd.pose.product import matmul_precision
from cryograd.pose.quadrature import split_rotations, split_shifts

# Scores of a block of images are to stay in cache between the product and the softmax.
BLOCK_BYTES = 16 * 2**20
# Rotations with less than this responsibility, and less than a tenth of the largest, do not enter the
# statistics of an image.
NEGLIGIBLE, TENTH = 1e-3, 0.1
# Poses of an image that are reported.
RANKED = 16


@dataclass(frozen=True)
class Batch:
    """A whitened minibatch on one half-disc.

    Parameters
    ----------
    images
        Fourier coefficients X / σ, shape (B, K), complex64.
    ctf
        C / σ, shape (B, K), float32.
    log_norm
        −‖X / σ‖² − Σ log πσ², shape (B,): makes the evidence comparable between noise models.
    count, area
        How much each image counts in statistics and means, and the fraction of the noise's power that its
        mask leaves, shape (B,); None where all are 1.
    """

    images: Tensor
    ctf: Tensor
    log_norm: Tensor
    count: Tensor | None = None
    area: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def counts(self) -> Tensor:
        """How much each image counts, shape (B,)."""
        return torch.ones_like(self.log_norm) if self.count is None else self.count

    def prefix(self, k: int) -> "Batch":
        """The batch on a smaller half-disc: the first ``k`` coefficients."""
        return replace(self, images=self.images[:, :k], ctf=self.ctf[:, :k])

    def part(self, images: slice | Tensor) -> "Batch":
        """Some of the images."""
        area = None if self.area is None else self.area[images]
        return Batch(self.images[images], self.ctf[images], self.log_norm[images], self.counts[images], area)

    def counted(self, counts: Tensor, images: Tensor) -> "Batch":
        """Some of the images, (B,) bool, each counting as much as it is told, (B,)."""
        return replace(self, count=counts.to(self.log_norm)).part(images)


@dataclass(frozen=True)
class Poses:
    """What the posterior says of each image of a batch.

    Parameters
    ----------
    top_rotations, top_shifts
        The most probable rotations (B, R, 3, 3), best first, and the most probable origin offset (B, R, 2)
        in Å at each; that of all rotations where only the shared grid was used.
    top_probabilities
        Their responsibilities, shape (B, R); 0 where an image has fewer candidates.
    log_evidence
        log p(X | V), shape (B,).
    entropy
        Entropy in nats of the marginal over rotations, shape (B,).
    effective_size
        1 / Σ γ² of that marginal, shape (B,).
    match, energy
        Re⟨X, C P V⟩ and ‖C P V‖² under the posterior, whitened, shape (B,): their ratio is the scale of the
        image; 0 where only the shared grid was used.
    spread
        Variance of the origin offset in Å², both axes together, shape (B,).
    """

    top_rotations: Tensor
    top_shifts: Tensor
    top_probabilities: Tensor
    log_evidence: Tensor
    entropy: Tensor
    effective_size: Tensor
    match: Tensor
    energy: Tensor
    spread: Tensor

    @property
    def rotations(self) -> Tensor:
        """The most probable rotation, shape (B, 3, 3)."""
        return self.top_rotations[:, 0]

    @property
    def shifts(self) -> Tensor:
        """The origin offset in Å at it, shape (B, 2)."""
        return self.top_shifts[:, 0]

    @property
    def max_probability(self) -> Tensor:
        """Largest responsibility of a rotation, shape (B,)."""
        return self.top_probabilities[:, 0]


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of a minibatch per slice (the M-step's b and a), and the slices themselves.

    Parameters
    ----------
    rotations
        Shape (J, 3, 3).
    slices
        P_j V, shape (J, K), complex64.
    cross
        b_j = Σ_il γ_ijl C_i S_l X_i, shape (J, K), complex64.
    power
        a_j = Σ_il γ_ijl C_i², shape (J, K), float32.
    image
        Number in the batch of the only image of each slice, shape (J,); None where images share the slices.
    """

    rotations: Tensor
    slices: Tensor
    cross: Tensor
    power: Tensor
    image: Tensor | None


def as_real(values: Tensor) -> Tensor:
    """Complex coefficients (..., K) as reals (..., 2K), real and imaginary part in turn."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2)


def as_complex(values: Tensor) -> Tensor:
    """Undo `as_real`."""
    return torch.view_as_complex(values.unflatten(-1, (-1, 2)))


def shifted_templates(batch: Batch, phases: Tensor) -> Tensor:
    """C_i S_l X_i as stacked reals (B, S, 2K), for phase factors (S, K) or (B, S, K)."""
    return as_real((batch.ctf * batch.images)[:, None] * phases.conj())


def rotation_entropy(marginal: Tensor) -> Tensor:
    """Entropy in nats of marginals over rotations (B, J)."""
    return torch.special.entr(marginal).sum(dim=-1)


def most_probable(marginal: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and indices (B, RANKED) of the most probable of (B, J), filled up with the best at 0."""
    probabilities, indices = marginal.topk(min(RANKED, marginal.shape[1]), dim=1)
    missing = RANKED - indices.shape[1]
    return pad(probabilities, (0, missing)), torch.cat([indices, indices[:, :1].expand(-1, missing)], dim=1)


def mean_shifts(joint: Tensor, shifts: Tensor, rotations: Tensor) -> Tensor:
    """Mean shift (B, R, 2) at some rotations (B, R); it is finer than the grid of shifts.

    ``joint`` (B, S, J) is the posterior over shifts (B, S, 2) and all rotations.
    """
    at = joint.gather(2, rotations[:, None, :].expand(-1, joint.shape[1], -1))
    # A rotation without any probability in this precision has no mean shift but 0.
    weights = at / at.sum(dim=1, keepdim=True).clamp(min=torch.finfo(at.dtype).tiny)
    return torch.bmm(weights.transpose(1, 2), shifts)


@dataclass
class Exhaustive:
    """Result of the exhaustive evaluation: marginals (B, J) and (B, S), evidence, statistics if asked for."""

    rotation_marginal: Tensor
    shift_marginal: Tensor
    log_evidence: Tensor
    cross: Tensor | None
    power: Tensor | None


def evaluate_exhaustive(
    batch: Batch, slices: Tensor, phases: Tensor, log_shift: Tensor, precision: str, statistics: bool
) -> Exhaustive:
    """Evaluate every image at every pose of a shared quadrature.

    Parameters
    ----------
    batch
        Whitened images and CTFs on K coefficients.
    slices
        P_j V, shape (J, K).
    phases
        Phase factors of the shifts, shape (S, K).
    log_shift
        Log weights of the shifts, shape (S,).
    precision
        Of the two large products, as in `matmul_precision`.
    statistics
        Whether to accumulate the statistics b (J, K) and a (J, K) of all images together.
    """
    J, S, K = len(slices), len(phases), slices.shape[1]
    real_slices = as_real(slices)
    norms = batch.ctf.square() @ (slices.real.square() + slices.imag.square()).T
    device = slices.device
    rotation_marginal = torch.empty(len(batch), J, device=device)
    shift_marginal = torch.empty(len(batch), S, device=device)
    evidence = torch.empty(len(batch), device=device)
    cross = torch.zeros(J, 2 * K, device=device) if statistics else None
    block = max(1, min(8, BLOCK_BYTES // (4 * S * J)))
    # One buffer for all blocks: fresh pages for each cost a sixth of the time in bfloat16.
    buffer = torch.empty(block * S, J, device=device)
    for start in range(0, len(batch), block):
        part = slice(start, start + block)
        templates = shifted_templates(batch.part(part), phases)
        flat = templates.reshape(-1, 2 * K)
        with matmul_precision(precision):
            scores = torch.mm(flat, real_slices.T, out=buffer[: len(flat)]).view(-1, S, J)
        evidence[part], rotation_marginal[part], shift_marginal[part] = softmax_poses(
            scores, norms[part], log_shift
        )
        if cross is not None:
            share = batch.counts[part] / scores.sum(dim=(1, 2))
            flat = flat * share.repeat_interleave(S)[:, None]
            with matmul_precision(precision):
                cross.addmm_(scores.view(-1, J).T, flat)
    evidence += batch.log_norm - math.log(J)
    power = rotation_marginal.T @ (batch.counts[:, None] * batch.ctf.square()) if statistics else None
    return Exhaustive(
        rotation_marginal, shift_marginal, evidence, None if cross is None else as_complex(cross), power
    )


@dataclass(frozen=True)
class Cells:
    """Candidate cells of each image: rotations (B, M, 3, 3) and shifts (B, S, 2) and their sides."""

    rotations: Tensor
    shifts: Tensor
    angle: float
    length: float

    def __len__(self) -> int:
        """Poses, all images together."""
        return self.rotations.shape[0] * self.rotations.shape[1] * self.shifts.shape[1]

    def split(self) -> "Cells":
        """Eight times the rotations and four times the shifts, in cells of half the side."""
        rotations = split_rotations(self.rotations, self.angle).flatten(1, 2)
        shifts = split_shifts(self.shifts, self.length).flatten(1, 2)
        return Cells(rotations, shifts, self.angle / 2, self.length / 2)


def best_cells(
    rotations: Tensor,
    shifts: Tensor,
    rotation_marginal: Tensor,
    shift_marginal: Tensor,
    keep: tuple[int, int],
    sides: tuple[float, float],
) -> Cells:
    """The most probable rotations and shifts of each image, of a shared grid or of its own candidates."""
    m, s = min(keep[0], rotation_marginal.shape[1]), min(keep[1], shift_marginal.shape[1])
    rows = torch.arange(len(rotation_marginal), device=rotation_marginal.device)[:, None]
    top_rotations = rotation_marginal.topk(m, dim=1).indices
    top_shifts = shift_marginal.topk(s, dim=1).indices
    if rotations.ndim == 3:
        return Cells(rotations[top_rotations], shifts[top_shifts], *sides)
    return Cells(rotations[rows, top_rotations], shifts[rows, top_shifts], *sides)


@dataclass(frozen=True)
class LocalPosterior:
    """Posterior of a block of images over their own candidate poses.

    Parameters
    ----------
    slices
        P V at the candidates, shape (b, M, K).
    templates
        Shifted templates, shape (b, S, 2K).
    joint
        Responsibilities, shape (b, S, M).
    log_evidence
        Shape (b,), up to the weight of a cell.
    """

    slices: Tensor
    templates: Tensor
    joint: Tensor
    log_evidence: Tensor

    def assigned(self) -> "LocalPosterior":
        """The posterior with each image's responsibility on its best pose alone: projection matching."""
        flat = self.joint.flatten(1)
        best = torch.zeros_like(flat).scatter_(1, flat.argmax(dim=1, keepdim=True), 1.0)
        return replace(self, joint=best.view_as(self.joint))


def evaluate_local(
    batch: Batch,
    cells: Cells,
    grid: Tensor,
    projector: Projector,
    points: Tensor,
    frequencies: Tensor,
    log_rotation: Tensor,
    log_shift: Tensor,
) -> LocalPosterior:
    """Evaluate each image at its own rotations × shifts: log p(X | V, pose), but for `Batch.log_norm`.

    Parameters
    ----------
    batch
        Whitened images on K coefficients.
    cells
        Candidates of each image.
    grid, projector
        The volume's transform and its projector.
    points
        Points of a slice, shape (K, 3).
    frequencies
        (kx, ky) of each coefficient in 1/Å, shape (K, 2).
    log_rotation, log_shift
        Log weights of the candidates, broadcast to (b, M) and (b, S).
    """
    b, m = cells.rotations.shape[:2]
    slices = projector.sample(grid, cells.rotations.reshape(-1, 3, 3), points).view(b, m, -1)
    templates = shifted_templates(batch, shift_phases(frequencies, cells.shifts))
    reals = as_real(slices)
    scores = torch.bmm(templates, reals.transpose(1, 2))
    ctf_power = batch.ctf.square().repeat_interleave(2, dim=1)
    power = torch.bmm(reals.square(), ctf_power[:, :, None]).squeeze(-1)
    logits = (2.0 * scores + (log_rotation - power)[:, None] + log_shift[:, :, None]).view(b, -1)
    top = logits.amax(dim=1, keepdim=True)
    joint = torch.softmax(logits, dim=1).view(scores.shape)
    evidence = (logits - top).exp().sum(dim=1).log() + top[:, 0]
    return LocalPosterior(slices, templates, joint, evidence)


@dataclass(frozen=True)
class Fit:
    """How the posterior explains a block of images.

    Parameters
    ----------
    residual
        E|X − C P V|² / σ², shape (b, K).
    match, energy
        As in `Poses`, shape (b,).
    """

    residual: Tensor
    match: Tensor
    energy: Tensor


def local_statistics(batch: Batch, cells: Cells, local: LocalPosterior) -> tuple[Statistics, Fit]:
    """Statistics of a block of images from their rotations that matter, and how well these fit."""
    marginal = local.joint.sum(dim=1)
    matters = marginal > (TENTH * marginal.amax(dim=1, keepdim=True)).clamp(max=NEGLIGIBLE)
    # Few of the candidates do: the products over shifts are made for as many as the image with most has.
    few = marginal.topk(int(matters.sum(dim=1).max()), dim=1).indices.sort(dim=1).values
    joint = local.joint.gather(2, few[:, None].expand(-1, local.joint.shape[1], -1))
    image, place = torch.nonzero(matters.gather(1, few), as_tuple=True)
    rotation = few[image, place]
    # Renormalised over what is kept, so that every image counts once.
    kept = torch.where(matters, marginal, 0.0).sum(dim=1)
    cross = as_complex(torch.bmm(joint.transpose(1, 2), local.templates)[image, place])
    cross = cross / kept[image, None]
    weight = marginal[image, rotation] / kept[image]
    power = weight[:, None] * batch.ctf.square()[image]
    slices = local.slices[image, rotation]
    energy = power * (slices.real.square() + slices.imag.square())
    match = (slices.conj() * cross).real
    none = torch.zeros(len(marginal), device=marginal.device)
    fit = Fit(
        batch.images.abs().square().index_add(0, image, energy - 2.0 * match),
        none.index_add(0, image, match.sum(dim=1)),
        none.index_add(0, image, energy.sum(dim=1)),
    )
    counts = batch.counts[image, None]
    statistics = Statistics(cells.rotations[image, rotation], slices, counts * cross, counts * power, image)
    return statistics, fit
