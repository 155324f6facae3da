"""Repairs of a pruned network from any calibration data, for networks with any output, of any wrapping."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hessian import HOBSSensitivityAnalyzer
from prune_gym import PhysicalPruner, task_from_loaders
from prune_gym.data.splits import TensorSplit
from prune_gym.problem import PruningProblem
from prune_gym.training.batchnorm import recalibrate_bn

X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 4
PLAN = {"a": [1, 2, 5]}
REFITS = ("closed_form", "sequential")


class Net(nn.Module):
    def __init__(self, output=lambda maps: maps.mean(dim=(2, 3))):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.last = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.output = output

    def forward(self, x):
        return self.output(self.last(torch.relu(self.b(torch.relu(self.norm(self.a(x)))))))


class Items(Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        image, label = X[index], int(Y[index])
        return {"image": image, "label": label} if self.kind == "dicts" else (image, label, index)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


DATA = {
    "tensor": X,
    "split": TensorSplit(X, Y),
    "images": [X[:30], X[30:]],
    "pairs": [(X, Y)],
    "maps as labels": [(X, torch.zeros(40, 8, 8))],
    "dataset of images": TensorDataset(X),
    "loader of images": DataLoader(X, 16),
    "iterable dataset": Stream(),
    "dicts": DataLoader(Items("dicts"), 16),
    "triples": DataLoader(Items("triples"), 16),
    "keywords": [{"x": X, "labels": Y}],
}


def assert_same(model, other):
    state = other.state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=1e-4, rtol=1e-4)


def repaired(model=None, data=X, refit="sequential", **options):
    return PhysicalPruner(Net().eval() if model is None else model, X[:1]).prune(
        PLAN, refit=refit, calibration=data, **options
    )


@pytest.mark.parametrize("refit", REFITS)
@pytest.mark.parametrize("name", DATA)
def test_every_form_of_the_data_gives_the_same_repair(name, refit):
    assert_same(repaired(data=DATA[name], refit=refit), repaired(refit=refit))


@pytest.mark.parametrize("refit", REFITS)
@pytest.mark.parametrize(
    "output",
    [
        lambda maps: maps,
        lambda maps: maps.mean(dim=(1, 2, 3)),
        lambda maps: (maps, maps.mean()),
        lambda maps: {"out": maps},
        lambda maps: {"out": [maps[:, :1], {"aux": maps}]},
    ],
)
def test_the_repair_does_not_depend_on_what_the_network_returns(output, refit):
    labels = {"boxes": torch.zeros(40, 4)}
    assert_same(repaired(Net(output).eval(), [(X, labels)], refit), repaired(refit=refit))


@pytest.mark.parametrize("refit", REFITS)
def test_wrappers_are_taken_off(refit):
    for wrapped in (nn.DataParallel(Net().eval()), torch.compile(Net().eval(), backend="eager")):
        assert_same(repaired(wrapped, refit=refit), repaired(refit=refit))
    with pytest.raises(TypeError, match="TorchScript"):
        repaired(torch.jit.trace(Net().eval(), X[:1]), refit=refit)


@pytest.mark.parametrize("refit", REFITS)
def test_the_callers_contexts_do_not_matter(refit):
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(repaired(refit=refit), repaired(refit=refit))
    expected = repaired(refit=refit)
    with torch.inference_mode():
        assert_same(repaired(data=X.clone(), refit=refit), expected)
        made = Net().eval()
    assert_same(repaired(made, refit=refit), expected)
    assert not any(tensor.is_inference() for tensor in repaired(made, refit=refit).state_dict().values())


@pytest.mark.parametrize("refit", REFITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_full_and_stored_back(refit, dtype):
    model = Net().eval().to(dtype)
    pruned = PhysicalPruner(model, X[:1].to(dtype)).prune(PLAN, refit=refit, calibration=X.to(dtype))
    full = repaired(refit=refit).state_dict()
    for name, tensor in pruned.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.dtype is dtype
            assert (tensor.float() - full[name]).norm() < 0.06 * full[name].norm() + 1e-2, name


@pytest.mark.parametrize("refit", REFITS)
def test_frozen_parameters_stay_frozen_and_are_repaired_all_the_same(refit):
    model = Net().eval()
    model.b.requires_grad_(False)
    pruned = repaired(model, refit=refit)
    assert [p.requires_grad for p in pruned.parameters()] == [p.requires_grad for p in model.parameters()]
    assert_same(pruned, repaired(refit=refit))


class Refusing(Net):
    refuses = False

    def forward(self, x):
        torch.rand(())
        if self.refuses and len(x) > 1:
            raise RuntimeError("out of luck")
        return super().forward(x)


@pytest.mark.parametrize("refit", REFITS)
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_changes(refit, fails):
    model = Refusing().train()
    model.b.requires_grad_(False)
    model.norm.eval()
    state = copy.deepcopy(model.state_dict())
    pruner = PhysicalPruner(model, X[:1])
    model.refuses = fails
    torch.manual_seed(0)
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="out of luck"):
            pruner.prune(PLAN, refit=refit, calibration=X)
    else:
        pruner.prune(PLAN, refit=refit, calibration=X)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in (model, model.b, model.norm)] == [True, True, False]
    assert [parameter.requires_grad for parameter in model.b.parameters()] == [False, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_batch_norms_are_recalibrated_on_any_data():
    states = []
    for name in ("split", "tensor", "images", "dicts", "iterable dataset"):
        model = Net().eval()
        recalibrate_bn(nn.DataParallel(model), DATA[name])
        states.append(model.state_dict())
    for state in states[1:]:
        torch.testing.assert_close(state["norm.running_mean"], states[0]["norm.running_mean"])
        torch.testing.assert_close(state["norm.running_var"], states[0]["norm.running_var"])
    with pytest.raises(ValueError, match="no images"):
        recalibrate_bn(Net(), [])


@pytest.mark.parametrize("kind", ["dicts", "triples"])
def test_a_task_takes_loaders_of_dicts_and_triples(kind):
    task = task_from_loaders("mine", Net().eval(), train=DataLoader(Items(kind), 16), reward=Items(kind))
    assert torch.equal(task.calibration.images, X)
    assert torch.equal(task.reward.labels, Y)


class Tied(Net):
    """One parameter under two names, as weight tying and careless code leave it."""

    def __init__(self):
        super().__init__()
        self.alias = self.b.weight


def test_a_network_with_a_tied_parameter_is_searched_and_exported():
    task = task_from_loaders("tied", nn.DataParallel(Tied().eval()), train=(X, Y), reward=(X, Y))
    evaluator = PruningProblem(task).load().evaluator
    expected = PruningProblem(task_from_loaders("free", Net().eval(), train=(X, Y), reward=(X, Y))).load().evaluator
    kept = [4, 3]
    assert evaluator.evaluate(kept) == expected.evaluate(kept)
    pruned = evaluator.export(kept)
    assert_same(copy.deepcopy(expected.export(kept)), pruned)
    torch.testing.assert_close(pruned(X), expected.export(kept)(X))


def test_an_analysis_of_images_alone_plans_like_one_with_labels():
    plans = []
    for data in ([(X, Y)], [X], [{"image": X}]):
        hobs = HOBSSensitivityAnalyzer(Net().eval())
        hobs.compute_sensitivity(data)
        plans.append(hobs.get_pruning_plan(0.4))
    assert plans[0] == plans[1] == plans[2]
