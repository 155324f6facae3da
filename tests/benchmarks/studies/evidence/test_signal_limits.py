"""Which scores say what of the test split: against scores taken by hand on a tiny network."""

import json

import numpy as np
import pytest

from benchmarks.studies.agents.signal import line_through
from benchmarks.studies.evidence import signal_limits
from prune_gym.training import evaluate_model

PLANS = 10


@pytest.fixture(scope="module")
def ends(tiny_problem):
    """What final plans score on test, of the physically smaller networks."""
    rng = np.random.default_rng(0)
    plans = np.unique(rng.integers(2, tiny_problem.cost.units + 1, size=(3 * PLANS, tiny_problem.num_layers)), axis=0)
    found = []
    for kept in rng.permutation(plans)[:PLANS].tolist():
        seen = evaluate_model(tiny_problem.evaluator.export(kept), tiny_problem.task.test)
        scores = {"test_accuracy": seen.accuracy, "test_soft_accuracy": seen.soft_accuracy}
        found.append({"kept": kept, "soft_accuracy": tiny_problem.evaluator.evaluate(kept).soft_accuracy, **scores})
    return found


@pytest.fixture
def study(tiny_problem, ends, tmp_path):
    """A function that writes a comparison with these final plans."""

    def write(ends=ends, network=tiny_problem.network_key):
        cells = tmp_path / "study" / "cells"
        cells.mkdir(parents=True)
        for number, end in enumerate(ends):
            cell = {"task": "tiny-cnn", "agent": "gp", "targets": [0.6], "seed": number, "network": network}
            cell |= {"evaluations": [{}, {}], "best": {"0.6": end}}
            (cells / f"{number}.json").write_text(json.dumps(cell))
        return tmp_path / "study"

    return write


def arguments(study, *more):
    given = ["--study", str(study), "--task", "tiny-cnn", "--target", "0.6", "--images", "50", "20"]
    return [*given, *more]


def test_every_look_is_the_line_through_scores_taken_by_hand(tiny_problem, ends, study, tmp_path, capsys):
    path = tmp_path / "limits.json"
    assert signal_limits.main(arguments(study(), "--json", str(path))) == 0
    stored = json.loads(path.read_text())
    assert (stored["plans"], stored["network"]) == (PLANS, tiny_problem.network_key)
    looks = [(row["where"], row["images"]) for row in stored["rows"] if row["repair"] == "sequential"][::2]
    seen = [(signal_limits.SEEN_IMAGES, 20), (signal_limits.SEEN_IMAGES, 50)]
    assert looks == [(signal_limits.REWARD_SPLIT, 100), *seen, (signal_limits.TEST_SPLIT, 200)]
    row = {(row["repair"], row["where"], row["images"], row["metric"]): row for row in stored["rows"]}
    test = np.array([end["test_accuracy"] for end in ends])
    reward = np.array([end["soft_accuracy"] for end in ends])
    expected = line_through(reward, test)
    found = row["sequential", signal_limits.REWARD_SPLIT, 100, "test_accuracy"]
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    itself = row["sequential", signal_limits.TEST_SPLIT, 200, "test_soft_accuracy"]
    assert itself["slope"] == pytest.approx(1, abs=1e-4)
    assert itself["residual_std"] == pytest.approx(0, abs=1e-5)
    assert "20 training images" in capsys.readouterr().out


def test_a_study_of_another_network_or_of_too_few_plans_is_refused(ends, study, capsys):
    folder = study(network="another")
    assert signal_limits.main(arguments(folder)) == 2
    assert "another network" in capsys.readouterr().err
    (folder / "cells" / "0.json").unlink()
    for number in range(1, 4):
        (folder / "cells" / f"{number}.json").unlink()
    assert signal_limits.main(arguments(folder)) == 2
    assert "6 final plans" in capsys.readouterr().err


def test_a_study_without_the_soft_accuracy_on_test_is_refused(ends, study, capsys):
    bare = [{key: value for key, value in end.items() if key != "test_soft_accuracy"} for end in ends]
    assert signal_limits.main(arguments(study(bare))) == 2
    assert "test_soft_accuracy of a final plan" in capsys.readouterr().err


def test_more_images_than_there_are_are_refused(study, capsys):
    given = arguments(study())
    given[given.index("50")] = "201"
    assert signal_limits.main(given) == 2
    assert "has 200 training images; 201 were asked for" in capsys.readouterr().err
