"""The surrogate of measuring, and R-SPAR's variants on it."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest

import prune_gym  # noqa: F401  registers the environments
from agents.model.reward_model import log_odds
from benchmarks.studies.evidence import alternatives
from benchmarks.studies.evidence.surrogate import SurrogateFidelity, read_plans


@pytest.fixture(scope="module")
def plans(tiny_problem):
    """Plans and scores that fall with the predicted loss."""
    rng = np.random.default_rng(0)
    kept = np.unique(rng.integers(1, tiny_problem.cost.units + 1, size=(400, tiny_problem.num_layers)), axis=0)
    return kept, 1 / (1 + np.exp(0.3 * tiny_problem.log_predicted_loss(kept)))


def write_table(path, kept, scores):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["task", "soft_accuracy", "kept"])
        writer.writeheader()
        for plan, score in zip(kept.tolist(), scores.tolist(), strict=True):
            writer.writerow({"task": "tiny-cnn", "soft_accuracy": score, "kept": " ".join(map(str, plan))})


def test_it_learns_what_plans_score(tiny_problem, plans):
    kept, scores = plans
    surrogate = SurrogateFidelity(tiny_problem, kept, scores)
    assert surrogate.fit.spearman > 0.9
    assert np.abs(surrogate.truth(tiny_problem, kept) - scores).mean() < 0.05


def test_luck_belongs_to_the_plan(tiny_problem, plans):
    kept, scores = plans
    surrogate = SurrogateFidelity(tiny_problem, kept, scores, luck=0.1)
    first, again = (surrogate.metrics(tiny_problem, kept[:50])[:, 1] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = SurrogateFidelity(tiny_problem, kept, scores, luck=0.1, luck_seed=1)
    assert not np.allclose(first, other.metrics(tiny_problem, kept[:50])[:, 1])
    truth = surrogate.truth(tiny_problem, kept)
    lucks = (log_odds(surrogate.metrics(tiny_problem, kept)[:, 1]) - log_odds(truth)) / 0.1
    assert 0.8 < lucks.std() < 1.2
    without = SurrogateFidelity(tiny_problem, kept, scores, luck=0.0)
    np.testing.assert_allclose(without.metrics(tiny_problem, kept)[:, 1], truth)


def test_environments_take_it_for_measuring(tiny_problem, plans):
    kept, scores = plans
    surrogate = SurrogateFidelity(tiny_problem, kept, scores)
    before = tiny_problem.evaluator.num_measured
    env = gym.make("HOBSPrune-v0", problem=tiny_problem, fidelity=surrogate, target_flops_reduction=0.5)
    env.reset(seed=0)
    info = env.step(env.action_space.sample())[4]
    assert info["measured_evaluations"] == 2
    assert info["soft_accuracy"] == surrogate.metrics(tiny_problem, info["kept"][None])[0, 1]
    assert tiny_problem.evaluator.num_measured == before


def test_variants_are_compared_on_the_truth(tiny_problem, plans, tmp_path, monkeypatch):
    write_table(tmp_path / "evaluations.csv", *plans)
    chosen = [alternatives.REFERENCE, "no policy (the Gaussian process alone)", "CMA-ES"]
    monkeypatch.setattr(alternatives, "VARIANTS", {name: alternatives.VARIANTS[name] for name in chosen})
    monkeypatch.setattr(alternatives, "NEAR", 1.0)
    options = ["--evaluations", str(tmp_path / "evaluations.csv"), "--task", "tiny-cnn", "--target", "0.6"]
    options += ["--budget", "6", "--seeds", "0", "1", "--json", str(tmp_path / "out.json")]
    assert alternatives.main(options) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["variant"] for row in found["rows"]] == chosen
    assert all(row["runs"] == 2 for row in found["rows"])
    assert found["rows"][0]["improvement"] is None
    assert 0 <= found["rows"][1]["improvement"]["value"] <= 1


@pytest.mark.parametrize("name", alternatives.VARIANTS)
def test_every_variant_can_be_made(name):
    from agents.registry import check_options

    agent, options = alternatives.VARIANTS[name]
    check_options(agent, options())


def test_what_is_no_table_of_plans_is_refused(tiny_problem, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_plans(tmp_path / "missing.csv", "tiny-cnn")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"no table of evaluations"):
        read_plans(tmp_path / "other.csv", "tiny-cnn")
    write_table(tmp_path / "table.csv", np.array([[1, 2, 3]]), np.array([0.5]))
    with pytest.raises(ValueError, match="no plans of task 'other'"):
        read_plans(tmp_path / "table.csv", "other")
    with pytest.raises(ValueError, match="at least 100 plans of 3 layers"):
        SurrogateFidelity(tiny_problem, *read_plans(tmp_path / "table.csv", "tiny-cnn"))
