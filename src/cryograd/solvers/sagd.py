"""Stochastic average gradient descent: every minibatch's last gradient takes part in a step (CVPR 2015)."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryograd.fourier import fourier_3d, inverse_fourier_3d, radius_grid
from cryograd.steps.decay import StepDecay
from cryograd.steps.line_search import Lipschitz, LipschitzSearch
from cryograd.steps.protocol import Local, Move, Needs, Stepper, Volume


@dataclass(frozen=True)
class SAGDState:
    """The last gradient of each minibatch.

    Parameters
    ----------
    gradients
        Fourier coefficients inside the radius of then, sorted by radius, complex64; empty where a
        minibatch has not been seen. At radius r one takes 17 r³ bytes: 0.8 MB at 36.
    total, count
        Their sum, and how many of them have each coefficient, shape (K,).
    lipschitz
        The Lipschitz constant.
    size
        Side in voxels of the box that the coefficients are of.
    """

    gradients: tuple[Complex[Tensor, " _"], ...]
    total: Complex[Tensor, " coefficients"]
    count: Float[Tensor, " coefficients"]
    lipschitz: Lipschitz
    size: int

    def resized(self, size: int) -> "SAGDState":
        """The state for maps of another box whose coefficients are the same.

        Inside the radius of the smaller box's Nyquist frequency, coefficients have the same order in both.
        """
        if size == self.size:
            return self
        smaller, larger = min(size, self.size), (size / self.size) ** 3
        shared = int((radius_grid(smaller, 3) < smaller / 2).sum())
        return SAGDState(
            tuple(larger * gradient[:shared] for gradient in self.gradients),
            larger * self.total[:shared],
            self.count[:shared],
            self.lipschitz.scaled(larger),
            size,
        )


@dataclass(frozen=True)
class SAGD(Stepper):
    """V ← V − (ε/L) mean over minibatches k of dV_k, the last gradient seen of each.

    The mean at a frequency is over the minibatches seen since that frequency opened: the others would draw
    it towards no step.

    Parameters
    ----------
    decay
        How ε falls.
    search
        How L is found.
    """

    needs: ClassVar[Needs] = Needs(takes="random parts", stages=(32, 128, 90), held_out=100)

    decay: StepDecay = field(default_factory=StepDecay)
    search: LipschitzSearch = field(default_factory=LipschitzSearch)

    def init(self, volume: Volume) -> SAGDState:
        """State before the first step."""
        empty = torch.zeros(0, dtype=torch.complex64, device=volume.device)
        return SAGDState((), empty, empty.real.clone(), Lipschitz(), volume.shape[-1])

    def step(self, state: SAGDState, volume: Volume, local: Local) -> Move:
        """Take one step; the minibatch's gradient takes the place of its last one."""
        local = local.penalised(volume)
        number, minibatches = local.minibatch
        gradients = list(state.gradients) + [state.total[:0]] * (minibatches - len(state.gradients))
        order = _inside(volume.shape[-1], local.radius, volume.device)
        new, old = fourier_3d(local.gradient).flatten()[order], gradients[number]
        total, count = (
            torch.nn.functional.pad(x, (0, len(order) - len(x))) for x in (state.total, state.count)
        )
        total[: len(old)] -= old
        count[: len(old)] -= 1.0
        gradients[number] = new
        total, count = total + new, count + 1.0

        spectrum = torch.zeros_like(fourier_3d(volume)).flatten()
        spectrum[order] = (total / count).to(spectrum.dtype)
        shape = (*volume.shape[:2], volume.shape[-1] // 2 + 1)
        mean = inverse_fourier_3d(spectrum.view(shape), volume.shape[-1])
        lipschitz = self.search(state.lipschitz, volume, local)
        length = local.rate * self.decay(local.iteration) * lipschitz.inverse
        following = SAGDState(tuple(gradients), total, count, lipschitz, volume.shape[-1])
        return Move(volume - length * mean, following, length)

    def minibatch_bytes(self, size: int, radius: float) -> int:
        """A gradient."""
        del size
        return gradient_bytes(radius)


def _inside(size: int, radius: float, device: torch.device) -> Tensor:
    """Flat places in a half-space transform of the coefficients up to a radius, sorted by radius."""
    distance = radius_grid(size, 3, device).flatten()
    places = torch.nonzero(distance <= radius)[:, 0]
    # Squares are whole numbers. Without rounding the order would depend on the box, where 3 · (1/3) is not 1.
    return places[distance[places].square().round().argsort(stable=True)]


def gradient_bytes(radius: float) -> int:
    """Bytes of one minibatch's gradient at a radius: half a ball of complex64, and the plane kx = 0."""
    return int(8.0 * (2.0 / 3.0 * math.pi * radius**3 + 0.5 * math.pi * radius**2))


SOLVER = SAGD()
