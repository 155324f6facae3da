import json

import numpy as np
import pytest

from benchmarks.studies.evidence import feature_evidence, feature_ranks
from prune_gym.problem import PruningProblem
from prune_gym.problem.features import PLAN_FEATURES
from prune_gym.tasks import register_task
from tests.prune_gym.tiny import tiny_task


def test_the_strongest_feature_comes_first_in_either_direction():
    losses = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 9.0, 5.0]])
    rows = feature_ranks.evidence({"weak": np.array([2.0, 1.0, 2.0]), "against": -losses[:, 0]}, losses)
    assert [row.feature for row in rows] == ["against", "weak"]
    assert rows[0].correlations == (-1.0, -1.0, -1.0)
    assert rows[0].strength == 1.0


def test_true_losses_are_those_of_single_layers_and_grow_with_the_share(tmp_path):
    problem = PruningProblem(tiny_task(), cache_dir=tmp_path).load()
    losses = feature_ranks.true_losses(problem, lambda line: None)
    assert losses.shape == (3, 3)
    assert (losses > 0).all()
    assert (losses[:, 0] < losses[:, 2]).all()
    assert not set(PLAN_FEATURES) & set(feature_ranks.all_features(problem))


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    register_task("tiny", tiny_task, overwrite=True)
    path = tmp_path / "evidence.json"
    assert feature_evidence.main(["--task", "tiny", "--json", str(path), "--threads", "1"]) == 0
    found = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert all(row["feature"] in printed for row in found["features"])
    assert len(found["true_losses"]) == len(found["layers"]) == 3


@pytest.mark.parametrize("task", ["digit-resnet20"])
def test_an_unknown_task_is_answered_with_the_nearest(task, capsys):
    with pytest.raises(SystemExit, match="2"):
        feature_evidence.main(["--task", task])
    assert "did you mean 'digits-resnet20'" in capsys.readouterr().err
