"""Extreme eigenvalues of a symmetric operator that is known by its products alone."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class Extremes(NamedTuple):
    """The ends of a spectrum.

    Parameters
    ----------
    least, largest
        Eigenvalues. Those that have not converged lie inside the spectrum: the least is not below the true
        one, nor the largest above it.
    converged
        Whether both are as good as was asked for.
    """

    least: float
    largest: float
    converged: bool

    @property
    def condition_number(self) -> float:
        """The largest over the least, of a positive definite operator; not more than the true one."""
        return self.largest / self.least


def extreme_eigenvalues(
    product: Product,
    start: Tensor,
    inverse: Tensor | float = 1.0,
    tolerance: float = 1e-3,
    most: int = 1000,
) -> Extremes:
    """The least and the largest eigenvalue in the space that the operator makes of the start.

    Parameters
    ----------
    product
        Of the operator with a vector.
    start
        Random vector, real or complex; its dtype is that of all vectors.
    inverse
        Positive diagonal that is roughly the operator's inverse; it leads to the least eigenvalue.
    tolerance
        Norm of the residual H x − θ x of a unit vector at which to stop, relative to θ: an eigenvalue is at
        least that near, mostly much nearer. Single precision cannot go below 1e-7 condition numbers.
    most
        Products after which to stop, for each.
    """
    least, low = _least(product, start, inverse, tolerance, most)
    largest, high = _least(lambda v: -product(v), start, 1.0, tolerance, most)
    return Extremes(least, -largest, low and high)


def _least(
    product: Product, start: Tensor, inverse: Tensor | float, tolerance: float, most: int
) -> tuple[float, bool]:
    """The least eigenvalue, and whether it has converged.

    Locally optimal preconditioned conjugate gradients (A. V. Knyazev, SIAM J. Sci. Comput. 23, 517, 2001):
    each step takes the best vector of the plane or space of the present one, its preconditioned residual and
    the last step. With the diagonal as preconditioner it takes tens of products where Lanczos takes hundreds.
    """
    x = start / start.norm()
    space, images = [x], [product(x)]
    for _ in range(most):
        value = _inner(space[0], images[0])
        residual = images[0] - value * space[0]
        if float(residual.norm()) <= tolerance * abs(value):
            return value, True
        w = inverse * residual
        w = w - _inner(space[0], w) * space[0]
        w = w / w.norm()
        space.insert(1, w)
        images.insert(1, product(w))
        best = _best(space, images)
        step, step_image = (
            sum((float(c) * v for c, v in zip(best[1:], part[1:], strict=True)), torch.zeros_like(x))
            for part in (space, images)
        )
        x, image = float(best[0]) * space[0] + step, float(best[0]) * images[0] + step_image
        space, images = ([a / x.norm(), b / step.norm()] for a, b in ((x, step), (image, step_image)))
    return _inner(space[0], images[0]), False


def _best(space: list[Tensor], images: list[Tensor]) -> np.ndarray:
    """Coefficients of the vector of a space of two or three that has the least Rayleigh quotient."""
    matrix = np.array([[_inner(a, b) for b in images] for a in space])
    gram = np.array([[_inner(a, b) for b in space] for a in space])
    # As the iteration converges, the residual and the last step become parallel.
    size, basis = eigh(gram)
    whiten = (basis / np.sqrt(np.maximum(size, 0.0) + 1e-30))[:, size > 1e-5]
    return whiten @ eigh(whiten.T @ (0.5 * (matrix + matrix.T)) @ whiten)[1][:, 0]


def _inner(a: Tensor, b: Tensor) -> float:
    """Re Σ a* b."""
    return float((a.conj() * b).sum().real)


def random_start(like: Tensor) -> Tensor:
    """Complex normal vector of the shape, precision and device of a real one, always the same."""
    generator = torch.Generator().manual_seed(0)
    real, imaginary = torch.randn(2, *like.shape, generator=generator, dtype=torch.float64).to(like)
    return torch.complex(real, imaginary)
