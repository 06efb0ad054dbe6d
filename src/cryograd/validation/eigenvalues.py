"""Extreme eigenvalues of a symmetric operator that is known by its products alone, by ARPACK's Lanczos."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from cryograd.steps.conjugate_gradient import conjugate_gradient

Product = Callable[[Tensor], Tensor]
# Vectors that Lanczos iterations keep, and conjugate gradients for an inverse at most.
_KEPT, _ITERATIONS = 8, 2000


class Extremes(NamedTuple):
    """The ends of a spectrum."""

    least: float
    largest: float

    @property
    def condition_number(self) -> float:
        """The largest over the least, of a positive definite operator."""
        return self.largest / self.least


def extreme_eigenvalues(
    product: Product, free: Tensor, inverse: Tensor | None = None, tolerance: float = 1e-3
) -> Extremes:
    """The least and the largest eigenvalue on complex vectors.

    Lanczos iterations find the largest soon, and the least hardly ever, as those around it lie close. Of the
    inverse it is the largest: its products are solved for by preconditioned conjugate gradients.

    Parameters
    ----------
    product
        Of the operator with a vector.
    free
        Which entries of a vector are not held at zero, shape (N,), bool.
    inverse
        Positive diagonal that is roughly a positive definite operator's inverse, real, shape (N,); None for
        an operator that may be indefinite, and is small.
    tolerance
        Relative accuracy.
    """
    dtype = torch.float64 if inverse is None else inverse.dtype
    operator = _Stacked(product, free, dtype)
    size = operator.shape[0]
    start = np.random.default_rng(0).standard_normal(size)
    settings = {"k": 1, "v0": start, "tol": tolerance, "return_eigenvectors": False}
    largest = float(eigsh(operator, which="LA", **settings)[0])
    if inverse is None:
        return Extremes(float(eigsh(operator, which="SA", **settings)[0]), largest)

    def solve(vector: Tensor) -> Tensor:
        return conjugate_gradient(
            product, vector, lambda v: v * inverse, _ITERATIONS, tolerance=0.01 * tolerance
        )

    inverted = _Stacked(solve, free, dtype)
    least = float(eigsh(operator, sigma=0.0, OPinv=inverted, ncv=min(_KEPT, size - 1), **settings)[0])
    return Extremes(least, largest)


class _Stacked(LinearOperator):
    """An operator on the real parts of the free entries before their imaginary ones."""

    def __init__(self, function: Product, free: Tensor, dtype: torch.dtype) -> None:
        self.function, self.places, self.length = function, torch.nonzero(free)[:, 0], len(free)
        self.real = dtype
        super().__init__(np.dtype(np.float64), (2 * len(self.places), 2 * len(self.places)))

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        parts = torch.as_tensor(x.reshape(2, -1)).to(self.places.device, self.real)
        vector = torch.zeros(self.length, dtype=self.real.to_complex(), device=self.places.device)
        vector[self.places] = torch.complex(parts[0], parts[1])
        image = self.function(vector)[self.places]
        return torch.cat([image.real, image.imag]).double().cpu().numpy()
