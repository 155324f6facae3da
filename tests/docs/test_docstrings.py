"""Docstrings as headings: what a reader may expect of their first line."""

import re

import pytest

from tests.docs.test_house import MODULES, ROOMS

QUESTION = re.compile(r'^\s*r?"""((?:What|Which|How|Does|Do|Is|Are|Where|When|Why|Whether|Who|Can) .*)', re.MULTILINE)
"""A first line that asks; docstrings of constants and fields count, which no syntax tree knows."""


@pytest.mark.parametrize("floor", ROOMS)
def test_docstrings_begin_with_what_a_thing_is_or_does_and_not_with_a_question(floor):
    asked = {
        name: found
        for name, path in MODULES.items()
        if name.split(".")[0] == floor and (found := QUESTION.findall(path.read_text()))
    }
    assert asked == {}
