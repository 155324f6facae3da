"""Without a GPU: no operator gets tensors of two devices, and the host does not wait inside loops."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.obs.refined import Solver, float64_rate
from hessian.obs.sweep import PANEL_COLUMNS
from hessian.pricing.layer_sweeps import sweep_layers
from hessian.support.distributed import SingleProcess
from prune_gym.measuring.evaluator import Evaluator
from prune_gym.reconstruction import Reconstruction
from prune_gym.reconstruction.images import UnlabelledImages
from prune_gym.reconstruction.reconstruction import prepare
from prune_gym.reconstruction.settings import Setting
from prune_gym.reconstruction.trials import adam, take_steps
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training import evaluate_model, fine_tune
from tests.gpu.accelerator import FakeAccelerator, MixedDevices
from tests.gpu.comparison import assert_same
from tests.gpu.scenarios import SCENARIOS, half, task_on, trained_task

CPU = torch.device("cpu")

SOLVING = [
    name
    for name in SCENARIOS
    if name.startswith(("curvature_of_sampled", "prices", "closed_form", "sequential", "surgery", "baseline"))
    or name in ("evaluator-closed_form", "evaluator-reconstructed", "judged_by_the_dense_network", "one_call")
    or name == "plans_together-closed_form"
]
"""Scenarios that ask for float64 somewhere."""


@pytest.fixture
def there():
    trained_task()
    with FakeAccelerator() as accelerator:
        yield accelerator


# ---------------------------------------------------------------- the accelerator itself


MIXED = {
    "sum": lambda here, there: here + there,
    "product": lambda here, there: here @ there,
    "in place": lambda here, there: here.add_(there),
    "into a number": lambda here, there: here.sum().add_(there.sum()),
    "a view": lambda here, there: torch.cat([here, there[1:].T[1:]]),
    "indices there": lambda here, there: here[there.argmax(dim=1)],
    "gather": lambda here, there: there.gather(0, here.long()),
    "layer": lambda here, there: nn.functional.linear(here, there),
    "copied": lambda here, there: here * copy.deepcopy(there),
    "derived": lambda here, there: here * torch.zeros_like(there),
    "attached": lambda here, there: here * torch.ones(3, 3, device=there.device),
    "random": lambda here, there: torch.rand(3, device=there.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_an_operator_of_two_devices_is_refused(name, there):
    with pytest.raises(MixedDevices):
        MIXED[name](torch.ones(3, 3), torch.ones(3, 3, device="cuda:0"))


def test_what_pytorch_lets_through_is_let_through(there):
    tensor = torch.ones(3, 3, device="cuda:0")
    assert (tensor * torch.tensor(2.0)).device == there.device
    assert tensor[torch.tensor([0, 2])].device == there.device
    assert (tensor.cpu() + torch.ones(3, 3)).device == CPU
    torch.ones(3, 3).copy_(tensor)


def test_numpy_does_not_read_an_accelerator(there):
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        np.asarray(torch.ones(3, device="cuda:0"))


WAITS = {
    "number": lambda tensor: tensor.sum().item(),
    "condition": lambda tensor: bool((tensor > 0).all()),
    "list": lambda tensor: tensor.tolist(),
    "to the CPU": lambda tensor: tensor.cpu(),
    "copy to the CPU": lambda tensor: torch.empty(3).copy_(tensor),
    "places": lambda tensor: (tensor > 0).nonzero(),
    "mask": lambda tensor: tensor[tensor > 0],
    "from the CPU": lambda tensor: torch.ones(3).to(tensor.device),
    "made of numbers": lambda tensor: torch.tensor([1.0], device=tensor.device),
    "indices of the CPU": lambda tensor: tensor[torch.tensor([0])],
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_for_the_device_is_counted(name, there):
    tensor = torch.ones(3, device="cuda:0")
    there.forget()
    WAITS[name](tensor)
    assert there.synchronisations.total() == 1


def test_queueing_is_not_counted(there):
    tensor = torch.ones(3, device="cuda:0")
    there.forget()
    tensor[tensor > 0] = 1.0
    (tensor * 2 + tensor[:1]).clamp_min(0).softmax(dim=0).argmax(dim=0, keepdim=True)
    torch.ones(3).to(tensor.device, non_blocking=True)
    assert not there.synchronisations
    assert there.operations > 5


def test_a_device_without_float64_refuses_it():
    with FakeAccelerator("mps:0") as there:
        with pytest.raises(TypeError, match="float64"):
            torch.ones(3, device=there.device).double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64, device=there.device)


# ---------------------------------------------------------------- everything on it


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_operator_gets_tensors_of_two_devices(name, there):
    scenario = SCENARIOS[name]
    assert_same(scenario.compute(there.device), scenario.compute(CPU), min(scenario.tolerance, 1e-3))
    assert there.operations or name in ("vector_environment",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SOLVING)
def test_solves_go_to_the_cpu_where_a_device_has_no_float64(name):
    scenario = SCENARIOS[name]
    expected = scenario.compute(CPU)
    with FakeAccelerator("mps:0") as there:
        found = scenario.compute(there.device)
    assert_same(found, expected, min(scenario.tolerance, 1e-3))


@pytest.mark.parametrize("name", ["closed_form_refit-Residual", "sequential_refit-Residual"])
def test_solves_are_refined_where_float64_is_slow(name, there, monkeypatch):
    """Of such small layers it does not pay by the count of operations, so that count is left out."""
    there.capability = (8, 9)
    refined, solve = [], Solver._refined
    monkeypatch.setattr("hessian.obs.refined.pays", lambda device, *_: float64_rate(device) < 0.5)
    monkeypatch.setattr(Solver, "_refined", lambda self, *args: refined.append(self) or solve(self, *args))
    scenario = SCENARIOS[name]
    assert_same(scenario.compute(there.device), scenario.compute(CPU), min(scenario.tolerance, 1e-3))
    assert any(solver.rounds for solver in refined)


# ---------------------------------------------------------------- how often the host waits


def waits(there, of):
    return sum(count for line, count in there.synchronisations.items() if line.startswith(of))


@pytest.fixture
def analysed(there):
    task = task_on(there.device)
    hobs = HOBSSensitivityAnalyzer(task.model, fisher="type-2")
    hobs.compute_sensitivity([(task.calibration.images, task.calibration.labels)])
    there.forget()
    return task, hobs


def test_a_pass_for_curvature_is_waited_for_a_few_times_whatever_the_layers(there, analysed):
    task, hobs = analysed
    images, labels = task.calibration.images, task.calibration.labels
    hobs.measure_curvature(list(zip(images.split(12), labels.split(12), strict=True)))
    assert there.synchronisations.total() <= 8 * 6 + 8


@pytest.mark.parametrize("units", [40, 160, 320])
def test_a_sweep_is_waited_for_once_a_panel(there, units):
    model = nn.Sequential(nn.Linear(6, units), nn.ReLU(), nn.Linear(units, 4)).eval().to(there.device)
    hobs = HOBSSensitivityAnalyzer(model)
    images = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    hobs.measure_curvature([(images, images[:, :4].argmax(dim=1))])
    there.forget()
    sweep_layers(model, hobs.groups, hobs.factors, 1e-3, SingleProcess())
    panels = -(-units // PANEL_COLUMNS)
    assert waits(there, "hessian/obs/sweep.py") == 2 * panels
    assert there.synchronisations.total() <= 3 * panels + 4


@pytest.mark.parametrize("repair", ["closed_form", "sequential"])
def test_a_plan_is_waited_for_when_it_is_checked_and_when_it_is_scored(there, analysed, repair):
    task, hobs = analysed
    evaluator = Evaluator(task, hobs, repair)
    there.forget()
    evaluator.evaluate([max(1, group.num_units - 2) for group in hobs.groups])
    assert there.synchronisations.total() <= 4


@pytest.mark.parametrize("plans", [2, 6])
def test_plans_measured_together_are_waited_for_once_however_many(there, analysed, plans):
    task, hobs = analysed
    evaluator = Evaluator(task, hobs, "closed_form")
    assert evaluator.together
    assert evaluator.one_by_one is None
    there.forget()
    evaluator.evaluate_many([[max(1, group.num_units - less) for group in hobs.groups] for less in range(plans)])
    assert evaluator.num_measured == plans
    assert there.synchronisations.total() <= 4


def test_a_training_step_is_not_waited_for(there):
    task = task_on(there.device)

    def counted(batch_size):
        model = copy.deepcopy(task.model)
        there.forget()
        fine_tune(model, None, task.calibration, epochs=1, batch_size=batch_size, lr=1e-3, seed=0)
        return there.synchronisations.total()

    assert counted(8) == counted(48) <= 6


def test_a_step_of_a_reconstruction_is_not_waited_for(there):
    task = task_on(there.device)
    pruner = PhysicalPruner(task.model, task.example_input)
    small = pruner.prune(half(pruner.groups)).eval()
    settings = Reconstruction(steps=8, batch_size=16)
    course, student = prepare(small, task.model, UnlabelledImages(task.calibration.images), settings, 0)
    course.teacher.keep()
    optimizer = adam(student)
    there.forget()
    take_steps(student, optimizer, course, Setting(1e-3, batch_statistics=True), 8)
    assert there.synchronisations.total() == 0
    assert there.operations > 100


def test_a_minibatch_of_a_policy_is_not_waited_for(there):
    """An update is, for where its states are, for what is reported and for the explained variance."""
    SCENARIOS["ppo"].compute(there.device)  # 4 minibatches
    assert waits(there, "agents/ppo/") <= 5


def test_looking_at_a_network_is_waited_for_once_however_many_batches(there):
    task = task_on(there.device)
    there.forget()
    evaluate_model(task.model, task.reward, batch_size=8)
    assert waits(there, "prune_gym/training/training.py") == 1


def test_held_out_images_are_waited_for_once(there, monkeypatch):
    monkeypatch.setattr("prune_gym.reconstruction.trials.TEACHER_BATCH", 8)
    task = task_on(there.device)
    small = PhysicalPruner(task.model, task.example_input).prune({}).eval()
    settings = Reconstruction(steps=8, batch_size=16)
    course, student = prepare(small, task.model, UnlabelledImages(task.calibration.images), settings, 0)
    course.teacher.keep()
    there.forget()
    course.held_out_loss(student)
    assert there.synchronisations.total() == 1
