import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.pruning.bisection import PRECISION, Bisection


@given(limit=st.floats(0.02, 0.97), power=st.floats(0.5, 6.0))
def test_it_comes_within_its_precision_of_the_deepest_cut_that_is_allowed(limit, power):
    search = Bisection(lambda reduction: (reduction / limit) ** power, bound=1.0)
    found = search.run(0.0, 0.98, steps=30)
    assert limit - 1.5 * PRECISION <= found <= limit + 1e-9
    assert search.measured[found] <= 1.0


def test_nothing_is_measured_twice():
    asked = []
    search = Bisection(lambda reduction: asked.append(reduction) or 3 * reduction, bound=1.0)
    search.run(0.0, 0.9, steps=9)
    search.run(0.0, 0.9, steps=9)
    assert len(asked) == len(set(asked))


def test_drops_that_go_up_and_down_still_give_a_measured_cut_within_the_bound():
    search = Bisection(lambda reduction: 0.5 if 0.3 < reduction < 0.4 else 2.0, bound=1.0)
    found = search.run(0.1, 0.9, steps=12)
    assert found is None or search.measured[found] <= 1.0


@pytest.mark.parametrize("low", [0.0, 0.4])
def test_where_even_the_least_cut_costs_too_much_there_is_no_answer(low):
    search = Bisection(lambda reduction: 5.0 + reduction, bound=1.0)
    assert search.run(low, 0.9, steps=5) is None
    assert low in search.measured
