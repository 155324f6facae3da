"""Sequential refit: each layer against the dense network on the pruned network's own inputs."""

import copy
import math

import pytest
import torch
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.channels import find_channel_groups
from hessian.channels.layer_types import MIXING_TYPES
from hessian.channels.slicing import NetworkSlicer, installed
from hessian.patches.matrices import weight_matrix
from hessian.refit.lockstep import HaltingNetwork, shared_copy
from hessian.refit.passage import Passage
from hessian.refit.ridge import ridge_refit
from hessian.refit.sequential import SequentialRefitter
from hessian.refit.surroundings import surroundings
from hessian.support.batches import Batch
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

    def spy(module, shift, inputs, targets, *rest):
        seen.append(
            (sum(map(len, targets)), math.prod(targets[0].shape[2:]), weight_matrix(module, bias=False).shape[2])
        )
        return ridge_refit(module, shift, inputs, targets, *rest)

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
    closing = surroundings(model, Batch((networks.images(1)[0],))).closing
    assert closing == {"conv2": "bn2", "conv4": None}


def test_a_sum_is_closed_whichever_operand_the_code_computes_first():
    class ShortcutFirst(networks.Residual):
        def forward(self, x):
            x = torch.relu(self.bn0(self.stem(x)))
            x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)
            shortcut = self.down(x)
            shortcut += self.conv4(torch.relu(self.conv3(x)))
            return self.head(torch.relu(shortcut).mean(dim=(2, 3)))

    states = []
    for kind in (networks.Residual, ShortcutFirst):
        model, (x, _) = networks.make(kind), networks.images(96)
        groups = find_channel_groups(model, x[:1])
        plan = {group.name: list(range(group.size // 2)) for group in groups}
        refitter = SequentialRefitter(model, groups, [x[:50], x[50:]], store_bytes=0)
        assert surroundings(model, Batch((x[:1],))).closing == {"conv2": "bn2", "conv4": None}
        states.append(refitter.state(plan))
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", networks.ALL)
@pytest.mark.parametrize("outputs", [True, False])
def test_a_walk_computes_what_the_forward_pass_computes(kind, outputs):
    model, (x, _) = networks.make(kind), networks.images(8)
    layers = [name for name, module in model.named_modules() if isinstance(module, MIXING_TYPES)]
    network = HaltingNetwork(shared_copy(model), layers, surroundings(model, Batch((x,))).closing, outputs=outputs)
    with network.passes([Batch((x[:3],)), Batch((x[3:],))]) as passes:
        seen = [set(), set()]
        while not all(one.finished for one in passes):
            for one, places in zip(passes, seen, strict=True):
                one.advance()
                if one.stop is not None:
                    places.add(one.stop.place.layer)
        assert seen == [set(layers)] * 2
        torch.testing.assert_close(torch.cat([one.result for one in passes]), model(x))


def test_a_pass_that_is_given_up_unwinds_and_one_that_fails_raises_where_it_is_advanced():
    unwound = []

    def body(passage):
        try:
            passage.stop("here")
        finally:
            unwound.append(True)
        raise KeyError("beyond")

    for go_on in (False, True):
        passage = Passage(body, torch.device("cpu"))
        passage.advance()
        assert passage.stopped_at == "here"
        if go_on:
            with pytest.raises(KeyError, match="beyond"):
                passage.advance()
        passage.close()
        assert passage.finished
    assert len(unwound) == 2


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


@pytest.mark.parametrize("kind", networks.ALL)
def test_errors_are_those_of_the_layers_from_the_first_cut_on(kind):
    hobs, plan, batch = pruned(kind)
    refitter = SequentialRefitter(hobs.model, hobs.groups, [batch])
    refitter.state(plan)
    errors = dict(refitter.errors)
    assert errors
    assert all(0.0 <= error < 2.0 for error in errors.values())
    last = hobs.groups[-1].name
    refitter.state({last: plan[last]})
    assert set(refitter.errors) <= set(errors)
    refitter.state({})
    assert refitter.errors == {}


def test_deeper_cuts_leave_larger_errors():
    hobs, _, batch = pruned()
    refitter = SequentialRefitter(hobs.model, hobs.groups, [batch])
    sums = []
    for share in (0.9, 0.6, 0.3):
        refitter.state(hobs.plan([max(1, round(group.num_units * share)) for group in hobs.groups]))
        sums.append(sum(refitter.errors.values()))
    assert sums == sorted(sums)
