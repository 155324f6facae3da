"""docs/concepts.md: its blocks run, and what the text says of them is what they show."""

import pytest

from tests.pages import DOCS, run_page

PAGE = DOCS / "concepts.md"


@pytest.fixture(scope="module")
def names():
    return run_page(PAGE)


def test_the_page_runs_and_its_percentages_are_what_comes_out(names):
    accuracies = [round(100 * names["scores"][repair].accuracy) for repair in ("none", "closed_form", "sequential")]
    none, closed_form, sequential = accuracies
    assert f"{none} %, {closed_form} % and {sequential} %:" in PAGE.read_text()


def test_the_step_of_the_page_hardly_moves_accuracy_and_pays_the_penalty(names):
    parts = names["info"]["rewards"]
    assert names["reward"] < 0
    assert abs(parts["accuracy"]) < 0.1 * abs(parts["violation"])
    assert names["reward"] == pytest.approx(parts["accuracy"] + parts["violation"])


def test_the_first_two_layers_are_coupled_as_the_page_says(names):
    stream, inside = names["problem"].groups[:2]
    assert (len(stream.producers), len(stream.consumers)) == (4, 5)
    assert (len(inside.producers), len(inside.consumers)) == (1, 1)
