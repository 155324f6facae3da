"""What every method promises, whatever it does."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import baselines
from baselines.workshop.registry import Baseline
from prune_gym.cost import CostModel
from prune_gym.surgery.pruner import PhysicalPruner
from tests.baselines.fast import FAST, prune

pytestmark = pytest.mark.filterwarnings("ignore:.*more than 1 % off the target")
METHODS = [name for name in FAST if name != "unpruned"]


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_method_has_fast_options():
    assert set(FAST) == set(baselines.available())


@pytest.mark.parametrize("name", METHODS)
def test_flops_target_is_met_or_the_miss_reported(name, tiny_task, recwarn):
    warnings.simplefilter("always")
    model = copy.deepcopy(tiny_task.model)
    before, modes = state_of(model), [module.training for module in model.modules()]
    network, info = prune(name, model, tiny_task.calibration, 0.6, ratio_of="flops", return_info=True)
    warned = any("instead of" in str(warning.message) for warning in recwarn)
    assert (abs(info.flops_reduction - 0.6) <= 0.01) == info.on_target == (not warned)
    cost = CostModel(PhysicalPruner(model, tiny_task.example_input).groups, model, tiny_task.example_input)
    measured = CostModel(PhysicalPruner(network, tiny_task.example_input).groups, network, tiny_task.example_input)
    assert 1 - measured.dense_flops / cost.dense_flops == pytest.approx(info.flops_reduction)
    assert same(before, state_of(model))
    assert modes == [module.training for module in model.modules()]
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", METHODS)
def test_a_seed_reproduces_the_result(name, tiny_task):
    first, second = (prune(name, tiny_task.model, tiny_task.calibration, 0.4, seed=3) for _ in range(2))
    assert same(state_of(first), state_of(second))


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_cuts_the_dense_network_to_the_same_shape(name, tiny_task):
    network, info = prune(name, tiny_task.model, tiny_task.calibration, return_info=True)
    cut = PhysicalPruner(tiny_task.model, tiny_task.example_input).prune(info.plan)
    assert {k: v.shape for k, v in cut.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert info.channel_reduction == pytest.approx(0.5, abs=0.05)
    assert info.seconds > 0
    assert all(isinstance(index, int) for removed in info.plan.values() for index in removed)


@pytest.mark.parametrize("name", FAST)
def test_nothing_to_remove_gives_the_dense_network(name, tiny_task):
    network = prune(name, tiny_task.model, tiny_task.calibration, 0.0)
    assert same(state_of(network), state_of(tiny_task.model))


def test_unpruned_is_a_copy_in_evaluation_mode(tiny_task):
    model = copy.deepcopy(tiny_task.model).train()
    network, info = baselines.unpruned(model, tiny_task.calibration, return_info=True)
    assert network is not model
    assert model.training
    assert not network.training
    assert same(state_of(network), state_of(model))
    assert (info.flops_reduction, info.plan) == (0.0, {})


@pytest.mark.parametrize("name", ["dep-graph", "taylor", "hrank"])
def test_it_runs_on_every_device(name, tiny_task, device):
    network = prune(name, copy.deepcopy(tiny_task.model).to(device), tiny_task.calibration)
    assert {parameter.device for parameter in network.parameters()} == {device}


@pytest.mark.parametrize("name", ["dep-graph", "autocompress", "hrank", "taylor", "gnn", "amc"])
def test_long_methods_report_progress(name, tiny_task):
    seen = []
    prune(name, tiny_task.model, tiny_task.calibration, progress=lambda *call: seen.append(call))
    assert seen
    assert all(description and 0 <= done <= total for description, done, total in seen)


def test_a_users_method_is_a_decorator_away(tiny_task):
    from baselines.workshop.removal import keep_best

    @baselines.register("first-channels", "keeps the last channels", needs_labels=False, overwrite=True)
    def first_prune(bench, *, reverse=False):
        scores = [torch.arange(float(group.num_units)) * (-1 if reverse else 1) for group in bench.groups]
        return baselines.Outcome(keep_best(scores, bench.target.uniform()))

    try:
        assert "first-channels" in baselines.available()
        _, info = first_prune(tiny_task.model, tiny_task.calibration, 0.5, return_info=True)
        assert info.plan["conv2"][0] == 0
        _, info = first_prune(tiny_task.model, tiny_task.calibration, 0.5, reverse=True, return_info=True)
        assert info.plan["conv2"][0] > 0
        assert isinstance(baselines.get("first-channels"), Baseline)
        with pytest.raises(ValueError, match="registered already"):
            baselines.register("magnitude", "mine")(first_prune)
    finally:
        from baselines.workshop.registry import _REGISTRY

        _REGISTRY.pop("first-channels")


def test_importing_is_light_and_baselines_never_import_agents():
    heavy = "('torch', 'torch_pruning', 'stable_baselines3', 'matplotlib', 'torchvision', 'agents')"
    code = f"import sys, baselines; assert not [name for name in {heavy} if name in sys.modules]"
    later = "baselines.available(); assert not {'agents', 'stable_baselines3', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {later}"], check=True)


# Bad input


class Batches:
    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


IMAGES, LABELS = torch.randn(8, 1, 8, 8), torch.arange(8) % 4


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), True, "0.5"])
def test_ratio_outside_the_unit_interval(name, ratio, tiny_task):
    with pytest.raises(ValueError, match=r"pruning_ratio is the fraction removed, in \[0, 1\)"):
        prune(name, tiny_task.model, tiny_task.calibration, ratio)


@pytest.mark.parametrize("name", FAST)
def test_target_out_of_reach_names_the_range(name, tiny_task):
    with pytest.raises(ValueError, match=r"out of reach: this network reaches 0\.\d+"):
        prune(name, tiny_task.model, tiny_task.calibration, 0.99, max_pruning_ratio=0.5)


@pytest.mark.parametrize("name", FAST)
def test_unknown_kind_of_ratio(name, tiny_task):
    with pytest.raises(ValueError, match="ratio_of is 'channels' or 'flops'"):
        prune(name, tiny_task.model, tiny_task.calibration, ratio_of="params")


@pytest.mark.parametrize("name", FAST)
def test_unknown_option_names_the_nearest(name, tiny_task):
    with pytest.raises(TypeError, match="no option 'ratio_off'; did you mean 'ratio_of'"):
        prune(name, tiny_task.model, tiny_task.calibration, ratio_off="flops")


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("loader", [Batches(), Batches((IMAGES[:0], LABELS[:0]))], ids=["none", "empty batch"])
def test_empty_loader(name, loader, tiny_task):
    with pytest.raises(ValueError, match="the dataloader yields no images"):
        prune(name, tiny_task.model, loader)


@pytest.mark.parametrize("name", FAST)
def test_loader_without_labels(name, tiny_task):
    if baselines.get(name).needs_labels:
        with pytest.raises(ValueError, match="needs labels, but the dataloader yields images alone"):
            prune(name, tiny_task.model, Batches(IMAGES))
    else:
        prune(name, tiny_task.model, Batches(IMAGES))


@pytest.mark.parametrize("name", FAST)
def test_network_without_prunable_layers(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ValueError, match="no prunable layer"):
        prune(name, model, Batches((IMAGES, LABELS)))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    ("loader", "options"),
    [(Batches((IMAGES[:1], LABELS[:1])), {}), (Batches((IMAGES, LABELS)), {"batch_size": 1})],
    ids=["single image", "batch_size"],
)
def test_batch_norms_need_two_images(name, loader, options, tiny_task):
    with pytest.raises(ValueError, match="batch norms, which have no variance over batches of one image"):
        prune(name, tiny_task.model, loader, **options)


@pytest.mark.parametrize("name", FAST)
def test_model_that_is_none(name):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        prune(name, "resnet", Batches((IMAGES, LABELS)))


def test_unknown_method_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'taylor'"):
        baselines.get("tailor")
