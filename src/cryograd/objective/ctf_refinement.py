"""Defocus and scale of images, by the likelihood that their map is found with.

At fixed responsibilities γ an image enters by two real numbers per coefficient, which know nothing of its CTF
C = s Im T:  log p = Σ_k 2 C b − C² a.  A change d of the mean underfocus turns T by exp(iκd), κ = πλ|k|², the
same for all coefficients of a ring. As functions of d images are therefore short sums of harmonics, whose
derivatives are exact and which are cheap to evaluate anywhere.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryograd.data.ctfs import ctf_of
from cryograd.data.particles import FloatArray, IntArray, Particles
from cryograd.errors import CryogradError
from cryograd.model.ctf import defocus_rate
from cryograd.pose.posterior import Statistics

# Scale below which no image is put: it is nearly without weight, and its CTF can still be divided by.
LEAST_SCALE = 0.1
# Standard deviations of the prior within which the defocus is searched, and radians by which the fastest
# coefficient turns between two points of that search.
REACH, TURN = 3.0, math.pi / 4.0
NEWTON_STEPS = 10


@dataclass(frozen=True)
class CtfStatistics:
    """What the posterior of B images says of their CTFs: log p = Σ_k 2 C b − C² a.

    Parameters
    ----------
    cross
        b = Re Σ_jl γ (P_j V)* S_l X / σ², shape (B, K), X being unwhitened.
    power
        a = Σ_jl γ |P_j V|² / σ², shape (B, K).
    """

    cross: Tensor
    power: Tensor

    @staticmethod
    def of(statistics: Statistics, ctf: Tensor) -> "CtfStatistics":
        """From statistics of images with candidates of their own, and the unwhitened CTFs (B, K) of then.

        Both hold the CTF as a factor: dividing by it loses no digits, however small it is.
        """
        assert statistics.image is not None
        slices = statistics.slices
        cross = (slices.conj() * statistics.cross).real
        power = statistics.power * (slices.real.square() + slices.imag.square())
        inverse = torch.where(ctf == 0.0, 0.0, 1.0 / ctf.double())
        zero = torch.zeros_like(inverse)
        return CtfStatistics(
            zero.index_add(0, statistics.image, cross.double()) * inverse,
            zero.index_add(0, statistics.image, power.double()) * inverse.square(),
        )


@dataclass(frozen=True)
class DefocusCurves:
    """Log-likelihood of n images by scale s and change d of the mean underfocus in Å.

    log p = 2 s B(d) − s² A(d),  B = Im Σ_r u_r exp(iκ_r d),  A = c − Re Σ_r v_r exp(2iκ_r d)

    Parameters
    ----------
    rate
        κ of each ring in radians per Å, shape (R,).
    cross, power
        u = Σ b T and v = ½ Σ a T² over the coefficients of a ring, shape (n, R), complex128.
    level
        c = ½ Σ a |T|² over all coefficients, shape (n,).
    """

    rate: Tensor
    cross: Tensor
    power: Tensor
    level: Tensor

    @staticmethod
    def of(statistics: CtfStatistics, transfer: Tensor, rate: Tensor) -> "DefocusCurves":
        """From statistics (n, K), T as `transfer_of` gives it, and κ of each coefficient, shape (K,)."""
        transfer = transfer.to(torch.complex128)
        rings, ring = torch.unique(rate.double(), return_inverse=True)
        zero = transfer.new_zeros(len(transfer), len(rings))
        cross = zero.index_add(1, ring, statistics.cross * transfer)
        power = zero.index_add(1, ring, 0.5 * statistics.power * transfer.square())
        level = 0.5 * (statistics.power * transfer.abs().square()).sum(dim=1)
        return DefocusCurves(rings, cross, power, level)

    def on_grid(self, changes: Tensor) -> tuple[Tensor, Tensor]:
        """B and A (n, G) at changes (G,) that all images share."""
        turn = torch.exp(1j * changes[:, None] * self.rate)
        return (self.cross @ turn.T).imag, self.level[:, None] - (self.power @ turn.square().T).real

    def at(self, changes: Tensor) -> tuple[Tensor, Tensor]:
        """B and A, each with its first two derivatives, shape (3, n), at a change of each image, (n,)."""
        turn = torch.exp(1j * changes[:, None] * self.rate)
        u, v, rate = self.cross * turn, self.power * turn.square(), self.rate
        cross = torch.stack([u.imag.sum(dim=1), u.real @ rate, -u.imag @ rate.square()])
        power = torch.stack(
            [self.level - v.real.sum(dim=1), 2.0 * v.imag @ rate, 4.0 * v.real @ rate.square()]
        )
        return cross, power


def best_scale(
    cross: Tensor, power: Tensor, width: float, centre: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Scale s of largest 2 s B − s² A − (s − s₀)²/2w², at least `LEAST_SCALE`, and its standard error.

    Parameters
    ----------
    cross, power
        B = Σ C b and A = Σ C² a with the CTF C at scale 1: of an image or summed over a group.
    width, centre
        Standard deviation w of the prior, and what it is around, s₀.
    """
    precision = 2.0 * power + width**-2
    return ((2.0 * cross + centre * width**-2) / precision).clamp(min=LEAST_SCALE), precision.rsqrt()


def best_defocus(curves: DefocusCurves, width: float, scale_width: float) -> tuple[Tensor, Tensor]:
    """Most probable change of the mean underfocus in Å, at the scale that is best there, and its error.

    The likelihood has many maxima. A grid that follows its fastest wave finds the cell of the highest, and
    Newton's method the maximum there, replaced by bisection where it would leave the cell.

    Parameters
    ----------
    curves
        Of n images.
    width
        Standard deviation in Å of the prior around no change.
    scale_width
        Standard deviation of the prior of the scale around 1.

    Returns
    -------
    tuple[Tensor, Tensor]
        Change and standard error from the curvature, the scale's uncertainty included; shape (n,).
    """
    reach = REACH * width
    points = 2 * math.ceil(reach * float(curves.rate.max()) / TURN) + 1
    grid = torch.linspace(-reach, reach, points).to(curves.rate)
    change = grid[_log_posterior(curves, grid, width, scale_width).argmax(dim=1)]
    step = 2.0 * reach / (points - 1)
    low, high = (change - step).clamp(min=-reach), (change + step).clamp(max=reach)
    for _ in range(NEWTON_STEPS):
        slope, bend = _derivatives(curves, change, width, scale_width)
        low, high = torch.where(slope > 0.0, change, low), torch.where(slope > 0.0, high, change)
        newton = change - slope / bend
        # At the maximum itself the step is none, and the end of the cell is where it stays.
        inside = (bend < 0.0) & (newton >= low) & (newton <= high)
        change = torch.where(inside, newton, 0.5 * (low + high))
    _, bend = _derivatives(curves, change, width, scale_width)
    # Nothing that was seen makes the prior wider.
    return change, (-bend).clamp(min=width**-2).rsqrt()


def _log_posterior(curves: DefocusCurves, grid: Tensor, width: float, scale_width: float) -> Tensor:
    """log p of the changes of a grid (G,), each at its best scale, up to a constant; shape (n, G)."""
    cross, power = curves.on_grid(grid)
    scale, _ = best_scale(cross, power, scale_width)
    prior = ((scale - 1.0) / scale_width).square() + (grid / width).square()
    return 2.0 * scale * cross - scale.square() * power - 0.5 * prior


def _derivatives(
    curves: DefocusCurves, change: Tensor, width: float, scale_width: float
) -> tuple[Tensor, Tensor]:
    """First two derivatives of log p by the change, at the scale that is best for it; shape (n,)."""
    cross, power = curves.at(change)
    scale, error = best_scale(cross[0], power[0], scale_width)
    slope, bend = 2.0 * scale * cross[1:] - scale.square() * power[1:]
    # The best scale moves with the change, unless it is at its bound.
    mixed = torch.where(scale > LEAST_SCALE, 2.0 * (cross[1] - scale * power[1]), 0.0)
    return slope - change / width**2, bend - width**-2 + (mixed * error).square()


def transfer_of(particles: Particles, indices: IntArray, frequencies: Tensor) -> Tensor:
    """T (b, K), complex64, at frequencies (kx, ky) in 1/Å, shape (K, 2): the CTF is s Im T."""
    chosen = particles.select(indices)
    plain = replace(chosen, scale=np.ones(len(chosen)))
    # A quarter of a turn makes the sine of the CTF a cosine.
    turned = replace(plain, phase_shift=plain.phase_shift + 0.5 * math.pi)
    every = np.arange(len(chosen))
    return torch.complex(ctf_of(turned, every, frequencies), ctf_of(plain, every, frequencies))


@dataclass(frozen=True)
class CtfRefinement:
    """Refined CTFs of n particles. What was not looked at has its prior: no change, scale 1, and its widths.

    Parameters
    ----------
    change, change_error
        Change of both underfocus values and its standard error in Å, shape (n,).
    scale, scale_error
        Scale of the CTF and its standard error at that defocus, shape (n,).
    """

    change: FloatArray
    change_error: FloatArray
    scale: FloatArray
    scale_error: FloatArray

    def applied(self, particles: Particles) -> Particles:
        """The particles that the changes are of, with the refined CTFs."""
        return particles.with_ctf(
            particles.defocus_u + self.change, particles.defocus_v + self.change, self.scale
        )


def refine_ctf(
    particles: Particles,
    frequencies: Tensor,
    parts: Iterable[tuple[IntArray, CtfStatistics]],
    defocus_width: float,
    scale_width: float,
) -> CtfRefinement:
    """Refine defocus and scale by one pass over images.

    Parameters
    ----------
    particles
        Particles with the CTFs of the input, around which the priors are: later passes start from them too.
    frequencies
        (kx, ky) of the coefficients in 1/Å, shape (K, 2).
    parts
        Some images and their statistics at a time, each image once. Defocus spreads signal beyond the
        particle: the images are best without masks.
    defocus_width
        Standard deviation in Å of the prior of the mean underfocus around the input's.
    scale_width
        Standard deviation of the prior of the scale around 1.

    Raises
    ------
    CryogradError
        Images were multiplied by their CTF or its sign: the defocus of then cannot be changed.
    """
    refuse_corrected(particles)
    n = len(particles)
    change, error = np.zeros(n), np.full(n, defocus_width)
    cross, power = torch.zeros(2, n, dtype=torch.float64)
    for indices, statistics in parts:
        for here, curves in _curves(particles, frequencies, indices, statistics):
            best, width = best_defocus(curves, defocus_width, scale_width)
            change[here], error[here] = best.cpu(), width.cpu()
            cross[here], power[here] = (values[0].cpu() for values in curves.at(best))
    scale, scale_error = (values.numpy() for values in best_scale(cross, power, scale_width))
    return CtfRefinement(change, error, scale, scale_error)


def _curves(
    particles: Particles, frequencies: Tensor, indices: IntArray, statistics: CtfStatistics
) -> Iterator[tuple[IntArray, DefocusCurves]]:
    """The images of each optics group, and their curves."""
    groups = particles.optics_index[indices]
    for number in np.unique(groups):
        rows = torch.as_tensor(np.flatnonzero(groups == number), device=frequencies.device)
        here = indices[groups == number]
        chosen = CtfStatistics(statistics.cross[rows], statistics.power[rows])
        rate = defocus_rate(frequencies, particles.optics[number].wavelength)
        yield here, DefocusCurves.of(chosen, transfer_of(particles, here, frequencies), rate)


def refuse_corrected(particles: Particles) -> None:
    """Refuse images that were changed by the input's CTF: another defocus does not explain them."""
    for optics in particles.optics:
        if optics.phase_flipped or optics.premultiplied:
            raise CryogradError(
                f"the images of optics group {optics.name} were corrected for their CTF",
                particles.source,
                "extract them again without phase flipping and premultiplication",
            )
