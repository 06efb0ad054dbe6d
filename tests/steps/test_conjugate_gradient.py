"""Conjugate gradients against a dense solve."""

import torch

from cryograd.steps.conjugate_gradient import conjugate_gradient, conjugate_gradients


def a_matrix(size: int, rank: int) -> torch.Tensor:
    factor = torch.randn(size, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return factor @ factor.T


def test_every_iterate_is_nearer_and_the_last_is_the_solution() -> None:
    matrix, right = a_matrix(6, 9), torch.arange(1.0, 7.0, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, right)
    iterates = list(
        conjugate_gradients(lambda v: matrix @ v, right, lambda r: r / matrix.diagonal(), tolerance=1e-9)
    )
    errors = [float((v - exact) @ matrix @ (v - exact)) for v in iterates]
    assert errors == sorted(errors, reverse=True)
    assert torch.allclose(iterates[5], exact)
    two = conjugate_gradient(lambda v: matrix @ v, right, lambda r: r / matrix.diagonal(), 2)
    assert torch.equal(two, iterates[1])


def test_what_no_row_measures_stays_as_it_is() -> None:
    matrix = torch.zeros(6, 6, dtype=torch.float64)
    matrix[:3, :3] = a_matrix(3, 5)
    right = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    found = conjugate_gradient(lambda v: matrix @ v, right, lambda r: r, 50, 1e-9)
    assert torch.allclose(matrix @ found, right)
    assert not found[3:].any()
    assert not conjugate_gradient(lambda v: matrix @ v, 0.0 * right, lambda r: r, 50).any()
