"""docs/tutorial.md: its blocks run as they stand, and its errors are raised with the messages it shows."""

import re

import pytest

from prune_gym.tasks import registry as tasks
from tests.pages import DOCS, run_page

PAGE = DOCS / "tutorial.md"
ERRORS = re.findall(r"^\| `([^`]+\)[^`]*)` \| (.+) \|$", PAGE.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("tutorial"))
        yield run_page(PAGE)
        tasks._REGISTRY.pop("my-digits")


def test_the_network_of_the_page_stays_good_and_gets_small(names):
    test = names["task"].test
    dense, small = (names["evaluate_model"](names[model], test).accuracy for model in ("model", "small"))
    assert dense > 0.95
    assert small > 0.9
    assert names["best"]["flops_reduction"] >= 0.9
    assert names["small"].stem[0].out_channels < names["model"].stem[0].out_channels


def test_the_page_shows_many_errors():
    assert len(ERRORS) >= 10


@pytest.mark.parametrize(("code", "message"), ERRORS)
def test_an_error_of_the_page_says_what_the_page_says(code, message, names):
    with pytest.raises((ValueError, TypeError, KeyError, RuntimeError)) as raised:
        eval(code, names)
    assert message in raised.value.args[0]
