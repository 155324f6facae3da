import dataclasses
import logging
import pickle

import numpy as np
import pytest
import torch

from hessian import hobs as hobs_module
from prune_gym.measuring import curvature_cache
from prune_gym.measuring.curvature_cache import CurvatureSettings, analysis_key
from prune_gym.problem import PruningProblem
from prune_gym.surgery.pruner import PhysicalPruner
from tests.prune_gym.tiny import TinyNet, tiny_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def problem(folder) -> PruningProblem:
    return PruningProblem(tiny_task(), cache_dir=folder).load()


@pytest.fixture
def analyses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of networks analysed from scratch, as they happen."""
    done: list[str] = []
    analyse = curvature_cache.HOBSSensitivityAnalyzer.compute_sensitivity

    def counted(self, *args, **kwargs):
        done.append(type(self.model).__name__)
        return analyse(self, *args, **kwargs)

    monkeypatch.setattr(curvature_cache.HOBSSensitivityAnalyzer, "compute_sensitivity", counted)
    return done


def test_the_layers_of_a_task_object_are_found_once(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(hobs_module, "find_channel_groups", lambda *_: found.append(1))
    for selection in ("hobs", "magnitude"):
        problem = PruningProblem(tiny_task(), cache_dir=tmp_path, selection=selection).load()
        assert problem.hobs.groups is not problem.groups
        assert problem.hobs.groups == problem.groups
    assert not found


def test_structure_needs_no_data(tmp_path):
    problem = PruningProblem(tiny_task(), cache_dir=tmp_path)
    assert not problem.is_loaded
    assert problem.layer_names == ["conv1", "conv2", "fc1"]
    assert problem.num_layers == 3
    assert problem.cost.units.tolist() == [8, 12, 16]
    assert problem.default_target == 0.7
    assert not problem.is_loaded
    assert not list(tmp_path.iterdir())


def test_the_second_problem_takes_curvature_from_the_cache_bit_for_bit(problem, folder, analyses):
    again = PruningProblem(tiny_task(), cache_dir=folder).load()
    assert analyses == []
    for group in problem.groups:
        assert torch.equal(again.hobs.curves[group.name], problem.hobs.curves[group.name])
        assert torch.equal(again.hobs.orders[group.name], problem.hobs.orders[group.name])
    kept = problem.start_plan("knapsack", 0.6)
    assert again.evaluator.evaluate(kept.tolist()) == problem.evaluator.evaluate(kept.tolist())


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_cache_is_rebuilt_with_a_message(tmp_path, analyses, caplog, damage):
    first = PruningProblem(tiny_task(), cache_dir=tmp_path).load()
    (path,) = tmp_path.glob("tiny-curvature-*.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-9] ^= 1
    path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        second = PruningProblem(tiny_task(), cache_dir=tmp_path).load()
    assert analyses == ["TinyNet", "TinyNet"]
    assert "is unusable and is computed again" in caplog.text
    assert torch.equal(second.hobs.curves["conv2"], first.hobs.curves["conv2"])
    PruningProblem(tiny_task(), cache_dir=tmp_path).load()
    assert len(analyses) == 2


def test_the_cache_key_depends_on_weights_data_and_settings():
    task, settings = tiny_task(), CurvatureSettings()
    keys = {analysis_key(task, settings), analysis_key(task, CurvatureSettings(damping=1e-2))}
    with torch.no_grad():
        bias = task.model.fc2.bias
        bias[0] += 1e-3
        keys.add(analysis_key(task, settings))
        bias[0] -= 1e-3
    images, labels = task.calibration.images, task.calibration.labels
    keys.add(analysis_key(dataclasses.replace(task, calibration=(images[:199], labels[:199])), settings))
    keys.add(analysis_key(dataclasses.replace(task, ignored_layers=("conv1",)), settings))
    assert len(keys) == 5


def test_a_network_of_the_same_weights_with_another_forward_is_analysed_anew(tmp_path, analyses, monkeypatch):
    key, plain = PruningProblem(tiny_task(), cache_dir=tmp_path).load().measurement_key, TinyNet.forward
    monkeypatch.setattr(TinyNet, "forward", lambda self, x: plain(self, x.flip(3)))
    second = PruningProblem(tiny_task(), cache_dir=tmp_path).load()
    assert analyses == ["TinyNet", "TinyNet"]
    assert second.measurement_key != key


def test_a_folder_that_cannot_be_written_costs_the_file_not_the_result(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    problem = PruningProblem(tiny_task(), cache_dir=blocked / "cache").load()
    assert problem.dense.accuracy > 0.9
    assert "cannot be kept" in caplog.text


def test_predicted_losses_are_the_summed_curves(problem):
    rng = np.random.default_rng(0)
    plans = rng.integers(1, problem.cost.units + 1, size=(4, 3))
    for plan, loss in zip(plans, problem.predicted_loss(plans), strict=True):
        expected = sum(
            problem.hobs.curves[group.name][group.num_units - kept].item()
            for group, kept in zip(problem.groups, plan, strict=True)
        )
        assert loss == pytest.approx(expected)
        assert problem.predicted_loss(plan) == loss
    assert problem.predicted_loss(problem.cost.units) == 0.0


def test_log_curves_are_finite_and_rise(problem):
    for curve, group in zip(problem.log_curves, problem.groups, strict=True):
        assert curve.shape == (group.num_units,)
        assert np.isfinite(curve).all()
        assert (np.diff(curve) >= 0).all()


def test_predictions_rank_plans_like_measurements_do_and_are_cached(problem, folder):
    assert problem.predictor.rank_correlation > 0.9
    assert list(folder.glob("tiny-predictor-*.safetensors"))
    again = PruningProblem(tiny_task(), cache_dir=folder)
    plans = np.array([problem.start_plan("uniform", target) for target in (0.3, 0.5, 0.8)])
    np.testing.assert_array_equal(again.predicted_metrics(plans), problem.predicted_metrics(plans))
    assert (np.diff(problem.predicted_score(plans)) < 0).all()


def test_fitting_predictions_measures_nothing_on_anyones_account(folder):
    problem = PruningProblem(tiny_task(), cache_dir=folder / "fresh")
    assert problem.predictor.num_measured >= 8
    assert problem.evaluator.num_measured == 0


@pytest.mark.parametrize("start", ["knapsack", "uniform"])
def test_start_plans_lie_on_the_target_and_are_copies(problem, start):
    plan = problem.start_plan(start, 0.6)
    assert 0.6 <= problem.cost.reduction(plan) < 0.65
    plan[:] = 1
    assert problem.cost.reduction(problem.start_plan(start, 0.6)) < 0.65


def test_progress_is_reported_while_analysing(tmp_path):
    calls: list[tuple[str, int, int]] = []
    problem = PruningProblem(tiny_task(), cache_dir=tmp_path, progress=lambda *call: calls.append(call))
    _ = problem.load().predictor
    assert {"elimination sweeps", "fitting predictions"} <= {name for name, _, _ in calls}
    assert all(1 <= done <= total for _, done, total in calls)


def test_a_loaded_problem_can_be_pickled(problem):
    copy = pickle.loads(pickle.dumps(problem))
    plan = problem.start_plan("knapsack", 0.7)
    assert copy.evaluator.evaluate(plan.tolist()) == problem.evaluator.evaluate(plan.tolist())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "digit-resnet20"}, KeyError, "did you mean 'digits-resnet20'"),
        ({"task": 7}, TypeError, "registered name or a PruningTask"),
        ({"task": "digits-resnet20", "device": "cuda:99"}, ValueError, "not present"),
    ],
)
def test_bad_problems_are_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        PruningProblem(**arguments)


def test_unknown_start_is_explained(problem):
    with pytest.raises(ValueError, match="did you mean 'knapsack'"):
        problem.start_plan("knapsac", 0.5)


@pytest.mark.parametrize("refit", ["none", "closed_form", "sequential"])
def test_a_plan_is_cut_as_surgery_with_the_tasks_images_cuts_it(problem, refit):
    task, kept = problem.task, [3, 4, 5]
    network = problem.cut(kept, refit=refit)
    pruner = PhysicalPruner(task.model, task.example_input, damping=problem.hobs.damping)
    images = None if refit == "none" else task.calibration
    analyzer = problem.hobs if refit == "closed_form" else None
    expected = pruner.prune(problem.hobs.plan(kept), refit=refit, calibration=images, analyzer=analyzer)
    torch.testing.assert_close(network(task.reward.images), expected(task.reward.images), rtol=0, atol=0)
