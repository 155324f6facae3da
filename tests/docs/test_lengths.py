"""The pages a reader is led to can be read in an hour and a half."""

import re

from tests.pages import PAGES

MOST_WORDS = 15_000
LOOKED_UP = {"configuration.md", "development.md"}
"""Pages that are no reading matter: one is generated and looked up, one is for those who change the code."""


def test_the_pages_are_short_enough_to_be_read():
    """Code and tables count; what holds no letter and no digit is no word."""
    pages = {page.name: page.read_text(encoding="utf-8") for page in PAGES if page.name not in LOOKED_UP}
    words = {name: len([word for word in text.split() if re.search(r"\w", word)]) for name, text in pages.items()}
    assert sum(words.values()) <= MOST_WORDS, words
