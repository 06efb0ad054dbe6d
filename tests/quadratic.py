"""A quadratic whose minimum is known, as solvers see it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryograd.fourier import (
    fourier_3d,
    inverse_fourier_3d,
    lowpass_volume,
    radius_grid,
    resize_spectrum,
    resize_transform,
)
from cryograd.steps.protocol import DIAGONAL_SHARE, Local, Move, Solver, Spectrum

SIZE, RADIUS = 16, 6.0


@dataclass(frozen=True)
class Quadratic:
    """Mean over K parts of ½ ⟨V − T_k, H (V − T_k)⟩, H diagonal in Fourier space.

    Parameters
    ----------
    targets
        T_k, shape (K, L, L, L); their mean is the minimum.
    curvature
        H, shape (L, L, L//2 + 1).
    ratio
        Precision of a prior on the spectrum, in the curvature's unit.
    """

    targets: Tensor
    curvature: Tensor
    ratio: float = 0.0

    @staticmethod
    def random(spread: float, parts: int = 1, disagreement: float = 0.0) -> "Quadratic":
        """Curvatures that fall by a factor ``spread`` to the radius, and targets that differ."""
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(parts + 1, SIZE, SIZE, SIZE, generator=generator)
        smooth = torch.stack([lowpass_volume(n, RADIUS - 1.5, 1.0) for n in noise])
        targets = smooth[0] + disagreement * (smooth[1:] - smooth[1:].mean(dim=0))
        return Quadratic(targets, spread ** (-radius_grid(SIZE, 3) / RADIUS).float())

    @property
    def size(self) -> int:
        """L."""
        return self.targets.shape[-1]

    def resized(self, size: int) -> "Quadratic":
        """The same function of the Fourier coefficients of volumes in another box."""
        targets = torch.stack([resize_transform(target, size) for target in self.targets])
        return Quadratic(targets, _resized(self.curvature, size))

    def hessian(self, volume: Tensor, radius: float = RADIUS) -> Tensor:
        """H V up to a radius."""
        open_ = radius_grid(self.size, 3) <= radius
        return inverse_fourier_3d(self.curvature * open_ * fourier_3d(volume), self.size)

    def local(self, volume: Tensor, iteration: int, radius: float, rate: float, part: int | None) -> Local:
        """One part near a volume, or all of them."""
        target = self.targets.mean(dim=0) if part is None else self.targets[part]

        def value(where: Tensor) -> float:
            apart = (where - target).double()
            return 0.5 * float((apart * self.hessian(where - target, radius)).sum())

        return Local(
            loss=value(volume),
            gradient=self.hessian(volume - target, radius),
            curvature=self.curvature * (radius_grid(self.size, 3) <= radius),
            precision=lambda curvature: self.ratio * curvature,
            # As the likelihood's, the statistic does not know of the box.
            weights=_resized(self.curvature, SIZE),
            value=value,
            normal=lambda weights, direction: replace(self, curvature=_resized(weights, self.size)).hessian(
                direction, radius
            ),
            spectrum=Spectrum.of_voxels(self.size, radius, volume.device),
            radius=radius,
            rate=rate,
            iteration=iteration,
            epoch=0 if part is None else iteration // len(self.targets),
            minibatch=(0, 1) if part is None else (part, len(self.targets)),
        )

    def error(self, volume: Tensor) -> float:
        """Relative distance to the minimum."""
        minimum = self.targets.mean(dim=0) / (1.0 + DIAGONAL_SHARE * self.ratio)
        return float((volume - minimum).norm() / minimum.norm())

    def step(
        self, solver: Solver, move: Move, iteration: int, rate: float = 1.0, radius: float = RADIUS
    ) -> Move:
        """The step after another one, on the part whose turn it is."""
        part = None if solver.needs.takes == "all" else iteration % len(self.targets)
        local = self.local(move.volume, iteration, radius, rate, part)
        return solver.step(move.state, move.volume, local)

    def start(self, solver: Solver) -> Move:
        """Zero, and what the solver knows there."""
        volume = torch.zeros_like(self.targets[0])
        return Move(volume, solver.init(volume), 0.0)

    def solve(self, solver: Solver, steps: int, rate: float = 1.0, radii: tuple[float, ...] = ()) -> Tensor:
        """The volume after some steps from zero, at given radii or the largest, part after part."""
        move = self.start(solver)
        for iteration in range(steps):
            radius = radii[iteration] if iteration < len(radii) else RADIUS
            move = self.step(solver, move, iteration, rate, radius)
        return move.volume


def _resized(curvature: Tensor, size: int) -> Tensor:
    """Curvature per coefficient in the unit of another box."""
    old = len(curvature)
    return curvature if size == old else resize_spectrum(curvature, size) * (size / old) ** 3
