"""README.md and docs/*.md: links lead somewhere, and nothing is left to be filled in."""

import re

import pytest

from tests.pages import DOCS, PAGES, ROOT, anchors, links, prose

PLACEHOLDER = re.compile(r"\b(?:READING|TABLE)_[A-Z_]+\b|\b[A-Z]+_(?:TABLE|ROWS)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}; there are {sorted(anchors(file))}"


def test_links_are_found_and_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One: `two`, 3.1?\n\n[`a`](b.md#c) ![d](e/f.png) <https://g> [h](https://i) `[x](y)`\n"
        "```python\nf[0](z)\n# not a heading\n```\n"
    )
    assert links(page) == ["b.md#c", "e/f.png"]
    assert anchors(page) == {"one-two-31"}


def test_every_page_can_be_reached_from_the_readme():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(ROOT / "README.md")}
    assert {page for page in PAGES if page.parent == DOCS} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_placeholder_is_left_in_the_readme_or_the_docs(page):
    """Only README.md and docs/*.md are looked at: elsewhere such names are constants of the code."""
    assert PLACEHOLDER.findall(prose(page)) == []
