"""Refined solutions are float64's, or a factorisation in float64 takes over."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian.obs import algebra
from hessian.obs.algebra import DegenerateFactorError, Factorisations
from hessian.obs.refined import HALF_RATE, MOST_ROUNDS, Solver, float64_rate, pays


def system(width, columns, logarithm, seed, batch=()):
    """A of a condition of 10^logarithm, with rows and columns of any size, and B."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(*batch, width, width, generator=generator, dtype=torch.float64))
    values = torch.logspace(0, -logarithm, width, dtype=torch.float64)
    matrix = (basis * values) @ basis.transpose(-1, -2)
    scale = 10.0 ** (6 * torch.rand(width, generator=generator, dtype=torch.float64) - 3)
    right = torch.randn(*batch, width, columns, generator=generator, dtype=torch.float64)
    return scale[:, None] * (matrix + matrix.transpose(-1, -2)) / 2 * scale, right, scale


def solved(matrix, right, refine):
    factorisations = Factorisations()
    solver = Solver(matrix, right.shape[-1], factorisations.cholesky, refine=refine)
    solution = solver.solve(right)
    factorisations.check()
    return solution, solver


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 40),
    columns=st.integers(1, 5),
    logarithm=st.floats(0, 5),
    seed=st.integers(0, 10_000),
    batch=st.sampled_from([(), (3,)]),
)
def test_a_refined_solution_is_float64s_to_ten_digits(width, columns, logarithm, seed, batch):
    matrix, right, scale = system(width, columns, logarithm, seed, batch)
    found, solver = solved(matrix, right, refine=True)
    expected, _ = solved(matrix, right, refine=False)
    assert solver.rounds is not None
    assert solver.rounds <= MOST_ROUNDS
    # Relative in the coordinates in which A has a diagonal of its own size; float64 itself has cond(A) 1e-16.
    error = torch.linalg.matrix_norm((found - expected) * scale[:, None])
    assert bool((error <= 1e-10 * torch.linalg.matrix_norm(expected * scale[:, None])).all())


@settings(max_examples=20, deadline=None)
@given(logarithm=st.floats(9, 12), seed=st.integers(0, 10_000))
def test_an_ill_conditioned_system_is_factorised_in_float64(logarithm, seed):
    matrix, right, _ = system(30, 2, logarithm, seed)
    found, solver = solved(matrix, right, refine=True)
    expected, _ = solved(matrix, right, refine=False)
    assert solver.rounds is None
    assert torch.equal(found, expected)


def test_one_system_of_several_that_does_not_converge_takes_the_others_along():
    good, right, _ = system(12, 2, 1.0, 0)
    bad, _, _ = system(12, 2, 11.0, 1)
    both = torch.stack([good, bad])
    found, solver = solved(both, right.expand(2, -1, -1), refine=True)
    assert solver.rounds is None
    assert torch.equal(found, solved(both, right.expand(2, -1, -1), refine=False)[0])


def test_a_second_right_side_uses_the_same_factor_and_zero_gives_zero():
    matrix, right, _ = system(12, 2, 2.0, 0)
    solver = Solver(matrix, 4, lambda _: pytest.fail("factorised in float64"), refine=True)
    first, second = solver.solve(right), solver.solve(2 * right)
    torch.testing.assert_close(second, 2 * first, rtol=1e-10, atol=0)
    assert torch.equal(solver.solve(torch.zeros_like(right)), torch.zeros_like(right))


@pytest.mark.parametrize("matrix", [-torch.eye(3, dtype=torch.float64), torch.full((3, 3), torch.nan).double()])
def test_a_degenerate_matrix_is_refused_as_ever(matrix):
    with pytest.raises(DegenerateFactorError):
        solved(matrix, torch.ones(3, 1, dtype=torch.float64), refine=True)


def test_refits_agree_with_and_without(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    A, W, kept = X.T @ X / 60, torch.randn(3, 20, generator=generator, dtype=torch.float64), torch.arange(12)
    expected = algebra.refit_columns(W, A, kept)
    monkeypatch.setattr("hessian.obs.refined.pays", lambda *_: True)
    found = algebra.refit_columns(W, A, kept)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_it_pays_for_slow_float64_and_few_columns_only(monkeypatch):
    gaming = torch.device("cuda", 0)
    assert not pays(torch.device("cpu"), 4096, 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert float64_rate(gaming) == 1 / 64
    assert pays(gaming, 2048, 10)
    assert not pays(gaming, 576, 64)  # a 3 x 3 convolution of 64 channels: residuals cost more than the factorisation
    for capability in HALF_RATE:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert float64_rate(gaming) == 0.5
        assert not pays(gaming, 2048, 64)
