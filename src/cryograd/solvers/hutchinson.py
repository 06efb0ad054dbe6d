"""Gradient steps preconditioned by the Hessian's diagonal, which random signs estimate on the way.

Algorithm 1 of Toader, Brubaker & Lederman (arXiv 2311.16100), as published. Its constants are for the unit in
which a CTF is at most 1 and the loss is a mean over images.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryograd.draws import Stream, generator
from cryograd.fourier import resize_spectrum
from cryograd.steps.armijo import ArmijoSearch, ArmijoState
from cryograd.steps.protocol import Local, Move, Needs, Spectrum, Stepper, Volume

PRECONDITIONED = ArmijoSearch(first=10.0, growth=1.2)


@dataclass(frozen=True)
class HutchinsonState:
    """What a run of the solver remembers.

    Parameters
    ----------
    mean
        D̄, the mean of all probes so far, per coefficient.
    probes
        Their number.
    diagonal
        D, a running mean of D̄ from 1 on.
    search
        The last step.
    """

    mean: Float[Tensor, "*coefficients"]
    probes: int
    diagonal: Float[Tensor, "*coefficients"]
    search: ArmijoState

    def resized(self, size: int) -> "HutchinsonState":
        """The state for maps of another box whose coefficients are the same.

        Steps η stay: both gradient and diagonal change their unit.
        """
        if not self.probes:
            return self
        old = self.mean.shape[0]
        larger = (size / old) ** 3
        # No radius reaches the corner: what D has come down to there from 1, it has at all new frequencies.
        corner = self.diagonal[old // 2, old // 2, old // 2]
        diagonal = resize_spectrum(self.diagonal - corner, size) + corner
        return replace(self, mean=larger * resize_spectrum(self.mean, size), diagonal=larger * diagonal)


@dataclass(frozen=True)
class Hutchinson(Stepper):
    """V ← V − η D̂⁻¹ g, with D ← β D + (1 − β) D̄ and D̂ = max(|D|, α), all on one minibatch.

    D̄ is the mean of z ⊙ H z over one vector z of random signs an iteration. α is one over the number of
    coefficients in the largest shell, 4π r².

    Parameters
    ----------
    memory
        β.
    search
        How η is found.
    seed
        Of the signs, which are a function of it and of the iteration.
    """

    needs: ClassVar[Needs] = Needs(stages=(32, 128, 90), held_out=100)

    memory: float = 0.9
    search: ArmijoSearch = PRECONDITIONED
    seed: int = 0

    def init(self, volume: Volume) -> HutchinsonState:
        """State before the first step; empty tensors, as the coefficients' shape is not known yet."""
        empty = torch.zeros(0, device=volume.device)
        return HutchinsonState(empty, 0, empty.clone(), ArmijoState())

    def step(self, state: HutchinsonState, volume: Volume, local: Local) -> Move:
        """Probe the diagonal, and take one step."""
        local = local.penalised(volume)
        signs = random_signs(volume, local.spectrum, self.seed, local.iteration)
        product = local.normal(local.weights, local.spectrum.volume(torch.complex(signs, 0.0 * signs)))
        probe = signs * local.spectrum.of(product).real
        probes = state.probes + 1
        mean = state.mean + (probe - state.mean) / probes if state.probes else probe
        before = state.diagonal if state.probes else torch.ones_like(probe)
        diagonal = self.memory * before + (1.0 - self.memory) * mean
        bounded = diagonal.abs().clamp(min=1.0 / (4.0 * math.pi * local.radius**2))
        moved, search, step = self.search.descend(state.search, volume, bounded, local)
        length = step / float(bounded[local.spectrum.open].mean())
        return Move(moved, HutchinsonState(mean, probes, diagonal, search), length)


def random_signs(
    volume: Volume, spectrum: Spectrum, seed: int, iteration: int
) -> Float[Tensor, "*coefficients"]:
    """A sign for each coefficient, the same for both members of a conjugate pair.

    Signs of the real part of white noise's coefficients: these are those of a volume, whatever the unknowns.
    """
    real = torch.view_as_real(volume) if volume.is_complex() else volume
    noise = generator(seed, Stream.SIGNS, iteration).standard_normal(tuple(real.shape), dtype=np.float32)
    white = torch.from_numpy(noise).to(real)
    coefficients = spectrum.of(torch.view_as_complex(white) if volume.is_complex() else white)
    return torch.where(coefficients.real < 0.0, -1.0, 1.0).to(real.dtype)


SOLVER = Hutchinson()
