"""The loss at known poses, in complex Fourier voxels (Toader, Brubaker & Lederman, arXiv 2311.16100).

F(v) = (1/n) Σ_i ½ (‖C_i P_i v − x_i‖² + λ ‖v‖²), x_i being centred and whitened images. It is quadratic, and
can be looked at in two ways that give the same numbers: through the images, which costs a slice and a
back-projection of each every time, or through sums over them, which cost about as much once, and no image
afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cryograd.fourier import HalfDisc
from cryograd.model.projection import slice_points
from cryograd.model.voxels import FourierVoxels
from cryograd.steps.protocol import Local, Spectrum, dot

# λ, the weight of ‖v‖²/2 (the paper's).
REGULARISATION = 1e-8


@dataclass(frozen=True)
class Turn:
    """Where a run is: iteration, epoch, number of the minibatch and how many there are, and step size."""

    iteration: int
    epoch: int
    minibatch: tuple[int, int]
    rate: float = 1.0


@dataclass(frozen=True)
class KnownSums:
    """What the loss needs of some images, a mean over them.

    Parameters
    ----------
    weights
        Statistic of the Hessian, as `FourierVoxels.weights` gives it.
    linear
        Pᵀ C x, shape (N,).
    energy
        ‖x‖².
    """

    weights: Tensor
    linear: Tensor
    energy: float


@dataclass(frozen=True)
class KnownPoses:
    """Images at known poses.

    Parameters
    ----------
    voxels
        The unknowns (N,), and how slices are interpolated.
    rotations
        Shape (n, 3, 3).
    power, cross
        C² and C x of each image on the half-disc, shape (n, K): all of an image but its energy.
    energy
        ‖x‖² of each image, shape (n,), float64.
    regularisation
        λ.
    """

    voxels: FourierVoxels
    rotations: Tensor
    power: Tensor
    cross: Tensor
    energy: Tensor
    regularisation: float = REGULARISATION
    # Slices that are in memory at a time; larger arrays are given back to the system after every use.
    block: int = field(default=500, repr=False)

    @staticmethod
    def of_images(voxels: FourierVoxels, rotations: Tensor, ctfs: Tensor, images: Tensor) -> "KnownPoses":
        """From whitened CTFs and centred, whitened images (n, K)."""
        energy = torch.view_as_real(images).square().sum(dim=(1, 2), dtype=torch.float64)
        return KnownPoses(voxels, rotations, ctfs.square(), ctfs * images, energy)

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def _points(self) -> Tensor:
        return slice_points(HalfDisc(self.voxels.radius), self.rotations.device, self.rotations.dtype)

    def _blocks(self, images: Tensor) -> Iterator[Tensor]:
        return iter(images.split(self.block))

    def value(self, values: Tensor, images: Tensor) -> float:
        """F on some images: one slice of each."""
        total = torch.zeros((), dtype=torch.float64, device=values.device)
        for block in self._blocks(images):
            slices = self.voxels.slices(values, self.rotations[block], self._points)
            total += _misfit(slices, self.power[block] * slices, self.cross[block])
        return self._loss(float(total), values, images)

    def _loss(self, misfit: float, values: Tensor, images: Tensor) -> float:
        energy = float(self.energy[images].sum())
        return 0.5 * ((misfit + energy) / len(images) + self.regularisation * dot(values, values))

    def evaluate(self, values: Tensor, images: Tensor) -> tuple[float, Tensor]:
        """F and its gradient on some images: a slice and a back-projection of each."""
        misfit = torch.zeros((), dtype=torch.float64, device=values.device)
        total = torch.zeros_like(values)
        for block in self._blocks(images):
            slices = self.voxels.slices(values, self.rotations[block], self._points)
            image = self.power[block] * slices
            misfit += _misfit(slices, image, self.cross[block])
            total += self.voxels.adjoint(image.sub_(self.cross[block]), self.rotations[block], self._points)
        gradient = total.div_(len(images)).add_(values, alpha=self.regularisation)
        return self._loss(float(misfit), values, images), gradient

    def product(self, values: Tensor, images: Tensor) -> Tensor:
        """Hessian of F on some images times unknowns: a slice and a back-projection of each."""
        total = torch.zeros_like(values)
        for block in self._blocks(images):
            slices = self.power[block] * self.voxels.slices(values, self.rotations[block], self._points)
            total += self.voxels.adjoint(slices, self.rotations[block], self._points)
        return total.div_(len(images)).add_(values, alpha=self.regularisation)

    def row_sums(self, images: Tensor) -> Tensor:
        """Row sums of that Hessian, shape (N,): a back-projection of each image."""
        return self._back_projection(self.power, images).real + self.regularisation

    def _back_projection(self, slices: Tensor, images: Tensor) -> Tensor:
        """Mean over some images of Pᵀ s."""
        total = torch.zeros(len(self.voxels), dtype=self.cross.dtype, device=slices.device)
        for block in self._blocks(images):
            part = slices[block].to(total.dtype)
            total += self.voxels.adjoint(part, self.rotations[block], self._points)
        return total.div_(len(images))

    def local(self, values: Tensor, images: Tensor, curvature: Tensor, turn: Turn) -> Local:
        """F near some unknowns, looked at through the images; ``weights`` are their numbers.

        Parameters
        ----------
        values
            Shape (N,).
        images
            Numbers of the minibatch's images.
        curvature
            Row sums of the Hessian, of these images or of more, for the solvers that use them.
        turn
            Where the run is.
        """
        loss, gradient = self.evaluate(values, images)
        return self._local(
            loss,
            gradient,
            curvature,
            images,
            lambda where: self.value(where, images),
            lambda numbers, v: self.product(v, numbers),
            turn,
        )

    def weights(self, images: Tensor) -> Tensor:
        """Statistic of the Hessian, a mean over images; without λ."""
        total = self.voxels.weights(self.rotations[images], self._points, self.power[images])
        return total.div_(len(images))

    def linear(self, images: Tensor) -> Tensor:
        """Pᵀ C x, a mean over images, shape (N,): a back-projection of each."""
        return self._back_projection(self.cross, images)

    def sums(self, images: Tensor) -> KnownSums:
        """What F on some images needs of them."""
        return KnownSums(self.weights(images), self.linear(images), float(self.energy[images].mean()))

    def normal(self, weights: Tensor, values: Tensor) -> Tensor:
        """Product of the Hessian that some sums stand for and unknowns: no image is looked at."""
        return self.voxels.normal(weights, values) + self.regularisation * values

    def local_of(self, sums: KnownSums, values: Tensor, turn: Turn) -> Local:
        """F near some unknowns, looked at through the sums of a minibatch."""

        def evaluate(where: Tensor) -> tuple[float, Tensor]:
            image = self.normal(sums.weights, where)
            return 0.5 * (dot(where, image) + sums.energy) - dot(where, sums.linear), image - sums.linear

        loss, gradient = evaluate(values)
        curvature = self.voxels.row_sums(sums.weights) + self.regularisation
        return self._local(
            loss, gradient, curvature, sums.weights, lambda where: evaluate(where)[0], self.normal, turn
        )

    def _local(self, loss, gradient, curvature, weights, value, normal, turn: Turn) -> Local:
        everywhere = torch.ones(len(self.voxels), dtype=torch.bool, device=gradient.device)
        return Local(
            loss=loss,
            gradient=gradient,
            curvature=curvature,
            precision=torch.zeros_like,
            weights=weights,
            value=value,
            normal=normal,
            spectrum=Spectrum(lambda v: v, lambda v: v, everywhere),
            radius=self.voxels.radius,
            rate=turn.rate,
            iteration=turn.iteration,
            epoch=turn.epoch,
            minibatch=turn.minibatch,
        )


def _misfit(slices: Tensor, image: Tensor, cross: Tensor) -> Tensor:
    """Σ C² |P v|² − 2 Re (C x)* P v over images: the misfit without their energy."""
    return (torch.view_as_real(slices) * torch.view_as_real(image - 2.0 * cross)).sum(dtype=torch.float64)
