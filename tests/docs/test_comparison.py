"""docs/comparison.md: every number is one of the comparisons it names, or a setting."""

import statistics

import pytest

from tests.docs.numbers import compared, result
from tests.docs.stated import Page
from tests.pages import DOCS

TARGETS = (0.5, 0.76, 0.9)
OURS = ("hobs-uniform", "hobs-knapsack", "hobs-rspar", "unpruned")
SHOWN = ("magnitude", "dep-graph", "taylor", "hrank", "amc", "hobs-uniform", "hobs-knapsack", "**hobs-rspar**")

COMPARISON = Page(DOCS / "comparison.md", "50 and 90 %, intervals", "at 50, 76 and 90 %")


def mean(row, stage):
    return 100 * row["accuracy"][stage]["mean"]


def best_published(rows, *stages):
    return max(mean(row, stage) for name, row in rows.items() if name not in OURS for stage in stages)


@COMPARISON.says
def rows_of_the_table():
    rows = compared("resnet20", 0.76)
    yield f"76 % of the FLOPs removed, five seeds, dense {mean(rows['unpruned'], 'raw'):.2f},"
    for title in SHOWN:
        row = rows[title.strip("*")]
        stages = (row["accuracy"][stage] for stage in ("raw", "bn", "refit", "finetuned"))
        cells = [f"{100 * stage['mean']:.1f} ± {100 * stage['std']:.1f}" for stage in stages]
        yield f"| {title} | {' | '.join(cells)} | {row['speedup']:.2f}x |"
        assert len(row["seeds"]) == 5


@COMPARISON.says
def leads_on_the_resnet():
    rows = [compared("resnet20", target) for target in TARGETS]
    one_shot = [mean(row["hobs-rspar"], "refit") - best_published(row, "raw", "bn") for row in rows]
    tuned = [mean(row["hobs-rspar"], "finetuned") - best_published(row, "finetuned") for row in rows]
    yield "R-SPAR leads: by {:.1f}, {:.1f} and {:.0f} points over the best published method".format(*one_shot)
    yield "R-SPAR is {:.1f}, {:.1f} and {:.1f} points ahead of the best published method, AMC,".format(*tuned)
    assert all(best_published(row, "finetuned") == mean(row["amc"], "finetuned") for row in rows)


@COMPARISON.says
def scale_of_the_study():
    budget = result("compare_fashion_resnet20/study.json")["budget"]
    yield f"methods train on {budget['own_training']:,} images, searches measure {budget['evaluations']} plans"
    yield f"fine-tuning is {-(-budget['images'] // 128)} steps"


@COMPARISON.says
def places_on_vgg():
    rows = [compared("vgg11", target) for target in TARGETS]
    dense = mean(rows[0]["unpruned"], "raw")
    below = [dense - mean(row["hobs-rspar"], "refit") for row in rows]
    amc = [mean(row["hobs-rspar"], "refit") - mean(row["amc"], "raw") for row in rows]
    yield f"Five seeds, dense {dense:.1f} ("
    yield "R-SPAR ends {:.1f}, {:.1f} and {:.1f} points below dense".format(*below)
    yield "AMC {:.1f}, {:.1f} and {:.1f} points below R-SPAR".format(*amc)


def test_the_knapsack_is_as_good_as_the_search_on_vgg_and_after_fine_tuning():
    for row in (compared("vgg11", target) for target in TARGETS):
        for stage in ("refit", "finetuned"):
            assert mean(row["hobs-knapsack"], stage) >= mean(row["hobs-rspar"], stage)
    gains = (compared("resnet20", target) for target in TARGETS)
    ahead = [mean(row["hobs-rspar"], "finetuned") - mean(row["hobs-knapsack"], "finetuned") for row in gains]
    assert statistics.fmean(ahead) < 0.2


@pytest.mark.parametrize("source", COMPARISON.sources, ids=lambda source: source.__name__)
def test_the_page_says_what_the_files_say(source):
    assert not COMPARISON.missing(source)


def test_no_number_of_the_page_is_unchecked():
    assert not COMPARISON.unchecked()
