"""A quadratic whose minimum is known, as solvers see it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryograd.fourier import fourier_3d, inverse_fourier_3d, lowpass_volume, radius_grid
from cryograd.steps.protocol import Local, Solver, Spectrum

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
    """

    targets: Tensor
    curvature: Tensor

    @staticmethod
    def random(spread: float, parts: int = 1, disagreement: float = 0.0) -> "Quadratic":
        """Curvatures that fall by a factor ``spread`` to the radius, and targets that differ."""
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(parts + 1, SIZE, SIZE, SIZE, generator=generator)
        smooth = torch.stack([lowpass_volume(n, RADIUS - 1.5, 1.0) for n in noise])
        targets = smooth[0] + disagreement * (smooth[1:] - smooth[1:].mean(dim=0))
        return Quadratic(targets, spread ** (-radius_grid(SIZE, 3) / RADIUS).float())

    def hessian(self, volume: Tensor, radius: float = RADIUS) -> Tensor:
        """H V up to a radius."""
        open_ = radius_grid(SIZE, 3) <= radius
        return inverse_fourier_3d(self.curvature * open_ * fourier_3d(volume), SIZE)

    def local(self, volume: Tensor, iteration: int, radius: float, rate: float, part: int | None) -> Local:
        """One part near a volume, or all of them."""
        target = self.targets.mean(dim=0) if part is None else self.targets[part]

        def value(where: Tensor) -> float:
            apart = (where - target).double()
            return 0.5 * float((apart * self.hessian(where - target, radius)).sum())

        return Local(
            loss=value(volume),
            gradient=self.hessian(volume - target, radius),
            curvature=self.curvature * (radius_grid(SIZE, 3) <= radius),
            precision=torch.zeros_like,
            weights=self.curvature,
            value=value,
            normal=lambda weights, direction: replace(self, curvature=weights).hessian(direction, radius),
            spectrum=Spectrum.of_voxels(SIZE, radius, volume.device),
            radius=radius,
            rate=rate,
            iteration=iteration,
            epoch=0 if part is None else iteration // len(self.targets),
            minibatch=(0, 1) if part is None else (part, len(self.targets)),
        )

    def error(self, volume: Tensor) -> float:
        """Relative distance to the minimum."""
        minimum = self.targets.mean(dim=0)
        return float((volume - minimum).norm() / minimum.norm())

    def solve(self, solver: Solver, steps: int, rate: float = 1.0, radii: tuple[float, ...] = ()) -> Tensor:
        """The volume after some steps from zero, at given radii or the largest, part after part."""
        volume = torch.zeros_like(self.targets[0])
        state = solver.init(volume)
        for iteration in range(steps):
            radius = radii[iteration] if iteration < len(radii) else RADIUS
            part = None if solver.needs.takes == "all" else iteration % len(self.targets)
            move = solver.step(state, volume, self.local(volume, iteration, radius, rate, part))
            volume, state = move.volume, move.state
        return volume
