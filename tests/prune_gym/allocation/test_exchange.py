"""The exchange against the same trades found by trying every pair of layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_gym.allocation import exchange
from prune_gym.allocation.exchange import Exchange, LossTable
from prune_gym.cost.limits import CountLimits
from prune_gym.cost.quadratic import FormBuilder, QuadraticCost


def network(widths: list[int], skips: bool) -> QuadraticCost:
    """FLOPs of a chain of 3 x 3 convolutions; with skips every third layer also feeds the one three further on."""
    units, own = np.array(widths), np.eye(len(widths))
    builder = FormBuilder(units)
    builder.add(18.0 * 64, widths[0], own[0], 3.0)
    for layer in range(1, len(widths)):
        builder.add(18.0 * (64 if layer < 4 else 16), widths[layer], own[layer], widths[layer - 1], own[layer - 1])
        if skips and layer >= 3 and layer % 3 == 0:
            builder.add(18.0 * 16, widths[layer], own[layer], widths[layer - 3], own[layer - 3])
    builder.add(2.0, 10.0, np.zeros(len(widths)), widths[-1], own[-1])
    return builder.form()


def all_pairs(search: Exchange) -> np.ndarray:
    """Every pair of layers in order, set to its best pair of counts, until a round improves nothing."""
    table, kept = search.table, search.kept.copy()

    def loss() -> float:
        places = [table.place(layer, count) for layer, count in enumerate(kept)]
        return sum(table.losses[np.arange(len(kept)), places].tolist())

    for _ in range(exchange.SWEEPS):
        before = loss()
        for first in range(len(kept)):
            for second in range(first + 1, len(kept)):
                best, chosen = loss(), None
                best -= 1e-12 * abs(best)
                for a in table.counts[first, : table.sizes[first]]:
                    for b in table.counts[second, : table.sizes[second]]:
                        trial = kept.copy()
                        trial[first], trial[second] = a, b
                        if 1.0 - search.form(trial) / search.dense < search.target:
                            continue
                        kept, trial = trial, kept
                        total = loss()
                        kept = trial
                        if total < best:
                            best, chosen = total, (a, b)
                if chosen is not None:
                    kept[first], kept[second] = chosen
        if not loss() < before:
            break
    return kept


def problem(
    seed: int,
    layers: int,
    width: int,
    skips: bool,
    round_to: int = 1,
    growth: float = 3.0,
    looks: float = np.inf,
) -> Exchange:
    rng = np.random.default_rng(seed)
    units = rng.integers(max(2, width // 2), width + 1, layers)
    form = network(units.tolist(), skips)
    minimum = np.minimum(np.maximum(1, rng.integers(0, 3, layers)), units)
    step = np.full(layers, round_to)
    limits = CountLimits(units, np.minimum(-(-minimum // step) * step, units), step)
    curves = [
        np.maximum.accumulate(np.exp(rng.normal()) * np.cumsum(np.exp(rng.normal(size=n) + np.linspace(0, growth, n))))
        for n in units
    ]
    dense = float(form(units))
    start = limits.round(units * rng.uniform(0.3, 0.9, layers))
    reachable = 1.0 - float(form(start)) / dense
    target = reachable * rng.uniform(0.7, 1.0)
    return Exchange(LossTable.of(curves, limits), form, int(dense), target, start, looks)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 6),
    width=st.integers(2, 7),
    skips=st.booleans(),
    round_to=st.sampled_from([1, 2, 3]),
    growth=st.sampled_from([-3.0, 0.0, 3.0]),
)
def test_what_is_ruled_out_could_not_have_improved(seed, layers, width, skips, round_to, growth):
    search = problem(seed, layers, width, skips, round_to, growth)
    expected = all_pairs(search)
    np.testing.assert_array_equal(search.run(), expected)


@pytest.mark.parametrize("seed", range(4))
def test_ruling_out_all_layers_at_once_changes_no_plan(seed, monkeypatch):
    plans = {}
    for patience in (1, 10**9):
        monkeypatch.setattr(exchange, "PATIENCE", patience)
        plans[patience] = problem(seed, 40, 12, skips=True).run().tolist()
    assert plans[1] == plans[10**9]


def test_few_pairs_are_tried_however_many_layers(monkeypatch):
    tried = {}
    real = Exchange._trade

    def counted(self, *pair):
        tried[len(self.kept)] = tried.get(len(self.kept), 0) + 1
        return real(self, *pair)

    monkeypatch.setattr(Exchange, "_trade", counted)
    for layers in (20, 80):
        problem(1, layers, 10, skips=False).run()
    assert tried[80] < 8 * tried[20]
    assert tried[80] < 80 * 79 / 2


@pytest.mark.parametrize("seed", range(6))
def test_rounds_keep_the_budget_and_come_close_to_looking_at_every_pair(seed):
    def loss(search: Exchange, kept: np.ndarray) -> float:
        places = [search.table.place(layer, count) for layer, count in enumerate(kept)]
        return float(search.table.losses[np.arange(len(kept)), places].sum())

    search = problem(seed, 80, 12, skips=True)
    start = loss(search, search.kept)
    every_pair = loss(search, search.run())
    search = problem(seed, 80, 12, skips=True, looks=0.0)
    kept = search.run()
    assert 1.0 - search.form(kept) / search.dense >= search.target
    assert start - loss(search, kept) > 0.98 * (start - every_pair)


def test_looks_grow_with_the_layers_and_not_with_their_pairs(monkeypatch):
    looked = {}
    real = Exchange._improve

    def counted(self, first, second, coupling):
        looked[len(self.kept)] = looked.get(len(self.kept), 0) + len(second)
        return real(self, first, second, coupling)

    monkeypatch.setattr(Exchange, "_improve", counted)
    for layers in (40, 160):
        problem(1, layers, 12, skips=True, looks=100.0).run()
    assert looked[160] <= 101 * 160


def test_a_window_narrower_than_the_layers_is_kept(monkeypatch):
    monkeypatch.setattr(exchange, "WINDOW", 2)
    search = problem(3, 5, 12, skips=False)
    before, trades = search.kept.copy(), []
    real = Exchange._trade

    def watched(self, *pair):
        old = self._places.copy()
        done = real(self, *pair)
        trades.append(np.abs(self._places - old).max())
        return done

    monkeypatch.setattr(Exchange, "_trade", watched)
    after = search.run()
    assert (after != before).any()
    assert max(trades) <= 2
