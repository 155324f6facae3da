"""Finished cells of a study say when they should not stand in one table."""

from benchmarks.studies.engine.store import mixed_versions


def test_cells_of_one_version_or_of_none_recorded_need_no_words():
    assert mixed_versions([]) is None
    assert mixed_versions([{"versions": {"torch": "2.13"}}, {}, {"versions": {"torch": "2.13"}}]) is None


def test_packages_that_differ_are_named_with_their_versions():
    cells = [{"versions": {"torch": version, "numpy": "2.4"}} for version in ("2.14", "2.13", "2.14")]
    assert mixed_versions(cells) == "cells of several versions: torch 2.13 and 2.14"
