"""Closed forms against brute-force constrained quadratic programs, in float64."""

import pytest
import torch

from hessian import obs
from hessian.obs.primal import ConsumerQuadratic
from hessian.obs.sweep import greedy_sweep

GEN = torch.Generator().manual_seed(0)


def problem(d_in=7, d_out=4, groups=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(groups, 40, d_in, generator=generator, dtype=torch.float64)
    Y = torch.randn(groups, 30, d_out, generator=generator, dtype=torch.float64)
    W = torch.randn(groups, d_out, d_in, generator=generator, dtype=torch.float64)
    return W, X.transpose(1, 2) @ X / 40, Y.transpose(1, 2) @ Y / 30


def constrained_minimum(W, A, G, zero_mask):
    """min over dW of the quadratic with (W + dW) = 0 on the mask, by the KKT system of the vectorized problem."""
    H = torch.kron(G, A)
    w = W.reshape(-1)
    fixed = zero_mask.reshape(-1)
    free = ~fixed
    delta = -w * fixed
    rhs = -(H[free][:, fixed] @ delta[fixed])
    delta[free] = torch.linalg.solve(H[free][:, free], rhs)
    return delta.view_as(W), 0.5 * delta @ H @ delta


def test_removed_columns_match_the_constrained_quadratic_program():
    W, A, G = (tensor[0] for tensor in problem())
    removed, kept = torch.tensor([1, 4]), torch.tensor([0, 2, 3, 5, 6])
    mask = torch.zeros_like(W, dtype=torch.bool)
    mask[:, removed] = True
    delta, price = constrained_minimum(W, A, G, mask)
    torch.testing.assert_close(obs.refit_columns(W, A, kept), (W + delta)[:, kept], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(obs.set_price(A, obs.output_gram(W, G), removed), price, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(obs.quadratic(delta, A, G), price, atol=1e-10, rtol=1e-10)


def test_the_refit_equals_the_textbook_least_squares_formula():
    W, A, _ = (tensor[0] for tensor in problem())
    kept = torch.tensor([0, 2, 3])
    expected = W @ A[:, kept] @ torch.linalg.inv(A[kept][:, kept])
    torch.testing.assert_close(obs.refit_columns(W, A, kept), expected, atol=1e-10, rtol=1e-10)


def test_single_block_prices_match_the_quadratic_program():
    W, A, G = (tensor[0] for tensor in problem(d_in=6))
    blocks = torch.tensor([[0, 1], [2, 3], [4, 5]])
    gram = obs.output_gram(W, G)
    obs_prices = obs.obs_column_prices(obs.inverse(A), gram, blocks)
    obd_prices = obs.obd_column_prices(A, gram, blocks)
    for index, block in enumerate(blocks):
        mask = torch.zeros_like(W, dtype=torch.bool)
        mask[:, block] = True
        assert obs_prices[index].item() == pytest.approx(constrained_minimum(W, A, G, mask)[1].item(), rel=1e-10)
        assert obd_prices[index].item() == pytest.approx(obs.quadratic(-W * mask, A, G).item(), rel=1e-10)
    assert (obs_prices <= obd_prices + 1e-12).all()


def test_removed_rows_match_the_constrained_quadratic_program():
    W, A, G = (tensor[0] for tensor in problem())
    prices = obs.obs_row_prices(W, A, torch.linalg.inv(G))
    zeroing = obs.obd_row_prices(W, A, G)
    for row in range(len(W)):
        mask = torch.zeros_like(W, dtype=torch.bool)
        mask[row] = True
        assert prices[row].item() == pytest.approx(constrained_minimum(W, A, G, mask)[1].item(), rel=1e-10)
        assert zeroing[row].item() == pytest.approx(obs.quadratic(-W * mask, A, G).item(), rel=1e-10)


def test_joint_rows_and_columns_match_the_constrained_quadratic_program():
    W, A, G = (tensor[0] for tensor in problem())
    rows, columns = torch.tensor([0, 2]), torch.tensor([1, 3, 4, 6])
    mask = torch.ones_like(W, dtype=torch.bool)
    mask[rows[:, None], columns] = False
    delta, _ = constrained_minimum(W, A, G, mask)
    joint = obs.joint_refit(W, A, G, rows, columns)
    torch.testing.assert_close(joint, (W + delta)[rows][:, columns], atol=1e-10, rtol=1e-10)


def quadratic_of(W, A, G, blocks):
    columns = blocks.reshape(-1)
    inverse = obs.inverse(A)[:, columns[:, None], columns]
    return ConsumerQuadratic(inverse, obs.output_gram(W, G)[:, columns[:, None], columns], len(blocks))


@pytest.mark.parametrize("panel", [1, 4, 1000])
def test_the_sweep_is_greedy_and_its_prices_telescope(monkeypatch, panel):
    monkeypatch.setattr("hessian.obs.sweep.PANEL_COLUMNS", panel)
    units = 8
    wide, narrow = problem(d_in=3 * units + 1, groups=2, seed=1), problem(d_in=units, d_out=3, seed=2)
    blocks = [torch.arange(3 * units).view(units, 3), torch.arange(units).view(units, 1)]
    sweep = greedy_sweep([quadratic_of(*wide, blocks[0]), quadratic_of(*narrow, blocks[1])])

    def price(gone):
        return sum(
            obs.set_price(A, obs.output_gram(W, G), block[gone].reshape(-1)).item()
            for (W, A, G), block in zip((wide, narrow), blocks, strict=True)
        )

    gone = []
    for step in range(units - 1):
        candidates = [unit for unit in range(units) if unit not in gone]
        cheapest = min(candidates, key=lambda unit: price([*gone, unit]))
        assert sweep.order[step].item() == cheapest
        gone.append(cheapest)
        assert sweep.increments[: step + 1].sum().item() == pytest.approx(price(gone), rel=1e-9)
    assert sorted(sweep.order.tolist()) == list(range(units))


def test_a_duplicated_input_is_free_for_obs_but_not_for_obd():
    W, A, G = (tensor[0] for tensor in problem(d_in=3))
    twin = torch.tensor([0, 1, 2, 2])
    A, W = A[twin][:, twin] + 1e-9 * torch.eye(4, dtype=torch.float64), W[:, twin]
    gram, blocks = obs.output_gram(W, G), torch.arange(4)[:, None]
    assert obs.obs_column_prices(obs.inverse(A), gram, blocks)[3] < 1e-6
    assert obs.obd_column_prices(A, gram, blocks)[3] > 1e-2


def test_a_singular_factor_is_refused_with_advice():
    with pytest.raises(ValueError, match="larger damping"):
        obs.inverse(torch.zeros(3, 3, dtype=torch.float64))
