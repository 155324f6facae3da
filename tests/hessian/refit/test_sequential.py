"""Sequential refit: each layer against the dense network on the pruned network's own inputs."""

import copy
import math

import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer, UnsupportedStructureError
from hessian.channels.slicing import NetworkSlicer, installed
from hessian.patches.matrices import weight_matrix
from hessian.refit.lockstep import Walker, closing_sum, execution_order, trace
from hessian.refit.ridge import ridge_refit
from hessian.refit.sequential import SequentialRefitter
from tests.hessian import networks


def pruned(kind=networks.Residual, share=0.5, seed=0, count=96):
    model, (x, y) = networks.make(kind, seed), networks.images(count)
    hobs = HOBSSensitivityAnalyzer(model)
    hobs.compute_sensitivity([(x, y)])
    plan = hobs.plan([max(1, round(group.num_units * share)) for group in hobs.groups])
    return hobs, plan, (x, y)


@torch.no_grad()
def output_error(hobs, plan, state, x):
    cut = NetworkSlicer(hobs.model, hobs.groups).cut(plan)
    small = copy.deepcopy(hobs.model)
    with installed(small, state, cut.attributes):
        return (small(x) - hobs.model(x)).square().mean().item()


@pytest.mark.parametrize("kind", networks.ALL)
def test_it_brings_the_outputs_closer_to_the_dense_network_than_the_closed_form(kind):
    hobs, plan, batch = pruned(kind)
    state = SequentialRefitter(hobs.model, hobs.groups, [batch]).state(plan)
    before = output_error(hobs, plan, hobs.compensate(plan), batch[0])
    assert output_error(hobs, plan, state, batch[0]) < before


@pytest.mark.parametrize("kind", networks.ALL)
def test_stored_and_recomputed_dense_activations_give_the_same_weights(kind):
    hobs, plan, (x, _) = pruned(kind)
    stored = SequentialRefitter(hobs.model, hobs.groups, [x[:50], x[50:]]).state(plan)
    recomputed = SequentialRefitter(hobs.model, hobs.groups, [x[:50], x[50:]], store_bytes=0).state(plan)
    assert all(torch.equal(tensor, recomputed[name]) for name, tensor in stored.items())


@pytest.mark.parametrize("kind", networks.ALL)
def test_the_batch_split_does_not_matter(kind):
    hobs, plan, (x, _) = pruned(kind)
    whole = SequentialRefitter(hobs.model, hobs.groups, [x], samples_per_input=None).state(plan)
    parts = SequentialRefitter(hobs.model, hobs.groups, list(x.split(17)), samples_per_input=None).state(plan)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], atol=2e-3, rtol=2e-3)


def test_layers_with_many_positions_are_solved_on_some_of_them_in_every_image(monkeypatch):
    hobs, plan, (x, _) = pruned(count=400)
    seen = []

    def spy(module, shift, inputs, targets, damping, relu):
        seen.append(
            (sum(map(len, targets)), math.prod(targets[0].shape[2:]), weight_matrix(module, bias=False).shape[2])
        )
        return ridge_refit(module, shift, inputs, targets, damping, relu)

    monkeypatch.setattr("hessian.refit.sequential.ridge_refit", spy)
    monkeypatch.setattr("hessian.refit.sequential.MIN_POSITIONS", 1)
    full, coarse = (
        SequentialRefitter(hobs.model, hobs.groups, list(x.split(100)), samples_per_input=samples)
        for samples in (None, 20)
    )
    full.state(plan)
    whole = list(seen)
    seen.clear()
    state = coarse.state(plan)
    assert seen != whole
    for (samples, positions, width), (images, all_positions, _) in zip(seen, whole, strict=True):
        assert samples * positions == min(20 * width, images * all_positions)
    assert output_error(hobs, plan, state, x) < output_error(hobs, plan, hobs.compensate(plan), x)


def test_batches_too_small_for_a_position_are_passed_over(monkeypatch):
    hobs, plan, (x, _) = pruned(count=400)
    monkeypatch.setattr("hessian.refit.sequential.MIN_POSITIONS", 1)
    single, whole = (
        SequentialRefitter(hobs.model, hobs.groups, parts, samples_per_input=5).state(plan)
        for parts in (list(x.split(1)), [x])
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(single[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_first_refitted_layer_is_the_ridge_solution_on_the_pruned_inputs():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1, bias=False)
            self.head = nn.Linear(4, 4)

        def forward(self, x):
            return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean(dim=(2, 3)))

    hobs, plan, (x, _) = pruned(Chain)
    plan = {"first": plan["first"]}
    sliced = NetworkSlicer(hobs.model, hobs.groups).cut(plan).state()
    with torch.no_grad():
        first = torch.nn.functional.conv2d(x, sliced["first.weight"], sliced["first.bias"], padding=1)
        inputs = torch.relu(first).transpose(0, 1).flatten(1).double()
        targets = hobs.model.second(torch.relu(hobs.model.first(x))).transpose(0, 1).flatten(1).double()
        start = sliced["second.weight"].flatten(1).double()
    gram = inputs @ inputs.T
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    expected = start + (targets - start @ inputs) @ inputs.T @ torch.linalg.inv(gram + ridge)
    state = SequentialRefitter(hobs.model, hobs.groups, [x], samples_per_input=None, relu_aware=False).state(plan)
    torch.testing.assert_close(state["second.weight"].flatten(1).double(), expected, atol=1e-4, rtol=1e-4)


def test_an_uncut_network_stays_as_it_is():
    hobs, _, batch = pruned()
    state = SequentialRefitter(hobs.model, hobs.groups, [batch]).state({})
    assert all(torch.equal(value, state[name]) for name, value in hobs.model.state_dict().items())


def test_the_deeper_operand_closes_a_residual_sum():
    model = networks.make(networks.Residual)
    graph, modules = trace(model).graph, dict(model.named_modules())
    nodes = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    norm, other = closing_sum(nodes["conv2"], modules)
    assert norm == "bn2"
    assert other.name == "relu"
    assert closing_sum(nodes["conv1"], modules) is None
    assert closing_sum(nodes["conv4"], modules)[1].target == "down"
    assert closing_sum(nodes["down"], modules) is None


def test_shortcuts_are_ready_before_the_layer_that_closes_the_block():
    model = networks.make(networks.Residual)
    order = [str(node.target) for node in execution_order(trace(model).graph, dict(model.named_modules()))]
    assert order.index("down") < order.index("conv4")


@torch.no_grad()
def test_a_walk_computes_what_the_forward_pass_computes_and_frees_its_values():
    model, (x, _) = networks.make(networks.MobileBlock), networks.images(8)
    order = execution_order(trace(model).graph, dict(model.named_modules()))
    walker = Walker(model, order, [x[:3], x[3:]])
    peak = 0
    for node in order:
        walker.step(node)
        walker.release(node)
        peak = max(peak, walker.live_bytes())
    outputs = torch.cat([values[order[-1]] for values in walker.values])
    torch.testing.assert_close(outputs, model(x))
    assert peak < 4 * 8 * 8 * 64 * 4


def test_the_dense_model_is_not_touched_and_modes_come_back():
    hobs, plan, batch = pruned()
    before = {name: value.clone() for name, value in hobs.model.state_dict().items()}
    hobs.model.train()
    SequentialRefitter(hobs.model, hobs.groups, [batch], store_bytes=0).state(plan)
    assert hobs.model.training
    assert all(torch.equal(value, before[name]) for name, value in hobs.model.state_dict().items())


def test_no_batches_is_an_error():
    hobs, _, _ = pruned()
    with pytest.raises(ValueError, match="no images"):
        SequentialRefitter(hobs.model, hobs.groups, [])


def test_data_dependent_control_flow_is_refused_with_the_alternative():
    class Branching(networks.Residual):
        def forward(self, x):
            return super().forward(x) if x.sum() > -1e9 else super().forward(-x)

    with pytest.raises(UnsupportedStructureError, match="closed-form"):
        trace(Branching())
