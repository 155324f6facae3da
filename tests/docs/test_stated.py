"""Which numbers of a page no test looks at."""

from tests.docs.stated import Page


def test_a_number_is_checked_where_a_statement_holds_it(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("ResNet-20 keeps 91.5 % ([a](b1.json)), VGG-11\n92.5 %.\n\n| a | `7` | 3 seeds |\n```\n5\n```\n")
    page = Page(path, "3 seeds")
    page.says(lambda: ["keeps 91.5 %"])
    (around,) = page.unchecked()
    assert "92.5 %" in around
    page.says(lambda: ["92.5 %"])
    assert page.unchecked() == []


def test_a_statement_that_the_page_does_not_make_is_found(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("It keeps\n91.5 %.")
    page = Page(path)
    assert page.missing(lambda: ["keeps 91.5 %", "keeps 91.6 %"]) == ["keeps 91.6 %"]
