"""The sequential refit takes networks as they are written: branches, shared modules, any input, any output."""

import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian.channels import find_channel_groups
from hessian.channels.slicing import NetworkSlicer, installed
from hessian.refit.sequential import SequentialRefitter
from hessian.support.batches import Batch
from tests.hessian import networks

PLAN = {"first": [0, 2, 5]}


class Chain(nn.Module):
    """Three convolutions and a head; the first is the one that is cut."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.second(torch.relu(self.first(x))))).mean(dim=(2, 3)))


def refitted(model, batches, plan=PLAN, example=None, **options):
    groups = find_channel_groups(model, networks.images(1)[0] if example is None else example)
    return SequentialRefitter(model, groups, batches, **options).state(plan)


def assert_same(state, other, **tolerance):
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, other[name], **tolerance)


def ridge(weight, X, Y, damping=1e-3):
    """Weight [d_out, d_in + 1] of X [d_in + 1, N] (last row ones) against Y [d_out, N], pulled to ``weight``."""
    gram = X @ X.T
    penalty = damping * gram.diagonal()[:-1].mean() * torch.ones(len(gram), dtype=X.dtype)
    penalty[-1] = min(penalty[-1], damping * gram[-1, -1])
    return weight + (Y - weight @ X) @ X.T @ torch.linalg.inv(gram + penalty.diag())


def with_ones(X):
    return torch.cat([X, X.new_ones(1, X.shape[1])])


def channels_first(maps):
    return maps.transpose(0, 1).flatten(1).double()


# ---------------------------------------------------------------------- control flow


class Branching(Chain):
    """Looks at its data and loops: no tracer can follow."""

    def forward(self, x):
        x = self.first(x)
        for _ in range(int(x.mean().abs() < 1e6)):
            x = torch.relu(x)
        return self.head(torch.relu(self.norm(self.second(x))).mean(dim=(2, 3)) if x.sum() > -1e9 else x)


def test_branches_and_loops_on_data_are_walked_through():
    x, _ = networks.images(40)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    state = SequentialRefitter(networks.make(Branching), groups, [x]).state(PLAN)
    assert_same(state, refitted(networks.make(Chain), [x]), atol=0, rtol=0)


class TwoWays(Chain):
    """Batches go different ways."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(6, 5, 1, bias=False)

    def forward(self, x):
        x = torch.relu(self.first(x))
        second = self.second if x.shape[0] > 1 and bool(self.first.weight.sum() > -1e9) and x.shape[2] == 8 else None
        x = second(x) if second is not None else self.other(x)
        return self.head(torch.relu(self.norm(x)).mean(dim=(2, 3)))


def test_a_layer_is_fitted_to_the_batches_that_come_to_it():
    small, large = networks.images(30)[0], torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    model = networks.make(TwoWays)
    (group, *rest) = find_channel_groups(networks.make(Chain), small[:1])
    (consumer,) = group.consumers
    groups = [replace(group, consumers=(consumer, replace(consumer, module="other"))), *rest]
    one, other = (SequentialRefitter(model, groups, [batch]).state(PLAN) for batch in (small, large))
    for stored in (1 << 30, 0):
        both = SequentialRefitter(model, groups, [small, large], store_bytes=stored).state(PLAN)
        torch.testing.assert_close(both["second.weight"], one["second.weight"])
        torch.testing.assert_close(both["other.weight"], other["other.weight"])
        assert not torch.allclose(both["head.weight"], one["head.weight"])


class Restless(nn.Module):
    """Closes a residual sum for most inputs, and reads the branch in another way for some."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        shortcut = torch.relu(self.first(x))
        branch = self.second(shortcut)
        if len(x) == 7:
            return self.head(branch * 2 + shortcut)
        shortcut += branch
        return self.head(shortcut)


@pytest.mark.parametrize("stored", [1 << 30, 0])
def test_a_branch_that_is_read_otherwise_than_foreseen_is_computed_first(stored):
    model, (x, _) = networks.make(Restless), networks.images(75)
    refitter = SequentialRefitter(model, [], [Batch((x[:68],)), Batch((x[68:],))], store_bytes=stored)
    assert dict(refitter._structure.closing) == {"second": None}
    with refitter._pruned.passes(refitter.inputs) as passes:
        for one in passes:
            while not one.finished:
                one.advance()
        for one, part in zip(passes, (x[:68], x[68:]), strict=True):
            torch.testing.assert_close(one.result, model(part))


# ---------------------------------------------------------------------- modules that run more than once


class Siamese(nn.Module):
    """One layer sees two inputs; what follows it sees both of its outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        one, two = self.shared(x), self.shared(0.5 * x.flip(-1) - 0.1)
        return self.head((torch.relu(one) - torch.relu(two)).mean(dim=(2, 3)))

    def features(self, x, weight, bias):
        return (
            torch.relu(F.conv2d(x, weight, bias)) - torch.relu(F.conv2d(0.5 * x.flip(-1) - 0.1, weight, bias))
        ).mean(dim=(2, 3))


@torch.no_grad()
@pytest.mark.parametrize("split", [40, 17])
def test_a_layer_that_runs_twice_is_fitted_to_both_calls_and_the_others_to_it(split):
    model, (x, _) = networks.make(Siamese).double(), networks.images(40)
    x = x.double()
    groups = find_channel_groups(model, x[:1], ignored_layers=["shared"])
    state = SequentialRefitter(model, groups, x.split(split), samples_per_input=None).state(PLAN)
    sliced = NetworkSlicer(model, groups).cut(PLAN).state()
    dense, small = (
        torch.relu(model.first(x)),
        torch.relu(F.conv2d(x, sliced["first.weight"], sliced["first.bias"], padding=1)),
    )
    X = with_ones(torch.cat([channels_first(small), channels_first(0.5 * small.flip(-1) - 0.1)], dim=1))
    Y = torch.cat([channels_first(model.shared(h)) for h in (dense, 0.5 * dense.flip(-1) - 0.1)], dim=1)
    start = torch.cat([sliced["shared.weight"].flatten(1), sliced["shared.bias"][:, None]], dim=1)
    expected = ridge(start, X, Y)
    torch.testing.assert_close(
        torch.cat([state["shared.weight"].flatten(1), state["shared.bias"][:, None]], 1), expected
    )
    X = with_ones(model.features(small, state["shared.weight"], state["shared.bias"]).T)
    start = torch.cat([sliced["head.weight"], sliced["head.bias"][:, None]], dim=1)
    expected = ridge(start, X, model(x).T)
    torch.testing.assert_close(torch.cat([state["head.weight"], state["head.bias"][:, None]], 1), expected)


def test_parameters_with_two_names_stay_one_tensor():
    model, (x, _) = networks.make(Chain), networks.images(40)
    expected = refitted(networks.make(Chain), [x])
    model.alias = model.second.weight
    state = refitted(model, [x])
    assert state["alias"] is state["second.weight"]
    torch.testing.assert_close(state["alias"], expected["second.weight"])


# ---------------------------------------------------------------------- inputs and outputs of any kind


class TwoInputs(Chain):
    def forward(self, x, offset, scale=1.0):
        return {"logits": (super().forward(x + offset), [scale * offset])}


@pytest.mark.parametrize(
    "batch",
    [
        lambda x, offset: ((x, offset), torch.zeros(len(x))),
        lambda x, offset: [[x, offset], "names, not tensors"],
        lambda x, offset: ({"x": x, "offset": offset}, None),
        lambda x, offset: {"offset": offset, "x": x, "scale": 2.0, "target": [{"boxes": offset}]},
        lambda x, offset: Batch((x,), {"offset": offset}),
    ],
)
def test_several_inputs_and_nested_outputs(batch):
    x, _ = networks.images(40)
    offset = torch.full_like(x, 0.3)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    state = SequentialRefitter(networks.make(TwoInputs), groups, [batch(x, offset)]).state(PLAN)
    assert_same(state, refitted(networks.make(Chain), [x + offset]), atol=1e-4, rtol=1e-4)


def test_images_of_several_sizes_in_a_list():
    class Detector(Chain):
        def forward(self, images):
            return [{"scores": super(Detector, self).forward(image[None])[0]} for image in images]

    x, _ = networks.images(30)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    batches, options = [([*x[:10]], None), ([*x[10:]], None)], {"relu_aware": False}
    state = SequentialRefitter(networks.make(Detector), groups, batches, **options).state(PLAN)
    expected = refitted(networks.make(Chain), [x], samples_per_input=None, **options)
    assert_same(state, expected, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------------- layers of many kinds


class SamePadding(nn.Conv2d):
    """Pads on one side more than on the other, as TensorFlow does."""

    def forward(self, x):
        size, step = self.kernel_size[0], self.stride[0]
        total = max((-(-x.shape[-1] // step) - 1) * step + size - x.shape[-1], 0)
        x = F.pad(x, [total // 2, total - total // 2] * 2)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@pytest.mark.parametrize("samples", [None, 3])
def test_convolutions_that_pad_themselves(samples, monkeypatch):
    monkeypatch.setattr("hessian.refit.sequential.MIN_POSITIONS", 1)

    class Strided(Chain):
        def __init__(self, kind):
            super().__init__()
            self.second = kind(6, 5, 3, stride=2, bias=False)
            self.explicit = kind is nn.Conv2d

        def forward(self, x):
            x = torch.relu(self.first(x))
            x = self.second(F.pad(x, (0, 1, 0, 1)) if self.explicit else x)
            return self.head(torch.relu(self.norm(x)).mean(dim=(2, 3)))

    x, _ = networks.images(60)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    states = [
        SequentialRefitter(networks.enliven(Strided(kind)), groups, [x], samples_per_input=samples).state(PLAN)
        for kind in (SamePadding, nn.Conv2d)
    ]
    assert_same(*states)


def test_padding_by_name_is_padding_by_number():
    class Named(Chain):
        def __init__(self):
            super().__init__()
            self.second = nn.Conv2d(6, 5, 3, padding="same", bias=False)

    x, _ = networks.images(40)
    assert_same(refitted(networks.make(Named), [x]), refitted(networks.make(Chain), [x]))


class Squashed(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight.tanh(), self.bias)


def test_a_layer_that_computes_its_weight_is_left_out_with_the_reason_and_the_next_one_repairs(caplog):
    class Net(Chain):
        def __init__(self):
            super().__init__()
            self.second = Squashed(6, 5, 3, padding=1, bias=False)

    model, (x, _) = networks.make(Net), networks.images(60)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    refitter = SequentialRefitter(model, groups, [x])
    assert "Squashed" in refitter.left_out["second"]
    assert "second" in caplog.text
    state, sliced = refitter.state(PLAN), NetworkSlicer(model, groups).cut(PLAN).state()
    torch.testing.assert_close(state["second.weight"], sliced["second.weight"])
    torch.testing.assert_close(state["norm.running_mean"], sliced["norm.running_mean"])

    def error(weights):
        with torch.no_grad(), installed(model, weights, {}):
            outputs = model(x)
        return (outputs - model(x)).square().mean()

    assert error(state) < 0.5 * error(sliced)


class FrozenBatchNorm2d(nn.Module):
    """As torchvision's: a batch norm whose numbers are all buffers."""

    def __init__(self, norm):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())
        self.eps, self.num_features = norm.eps, norm.num_features

    def forward(self, x):
        gain = self.weight * (self.running_var + self.eps).rsqrt()
        return x * gain[:, None, None] + (self.bias - self.running_mean * gain)[:, None, None]


def test_frozen_batch_norms_absorb_and_close_like_others():
    model, frozen = networks.make(networks.Residual), networks.make(networks.Residual)
    groups = find_channel_groups(model, networks.images(1)[0])
    for name in ("bn0", "bn1", "bn2"):
        setattr(frozen, name, FrozenBatchNorm2d(getattr(model, name)))
    frozen.requires_grad_(False)
    plan, (x, _) = {"conv1": [0, 3]}, networks.images(60)
    state, expected = (SequentialRefitter(net, groups, [x]).state(plan) for net in (frozen, model))
    # The groups were found with ordinary norms; what a frozen norm's entries are cut by is not asked here.
    for name in ("conv2.weight", "conv4.weight", "head.weight", "bn2.running_mean"):
        torch.testing.assert_close(state[name], expected[name], atol=1e-3, rtol=1e-3)


def test_a_norm_behind_two_layers_absorbs_the_shift_of_neither():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(5)
            self.left, self.right = nn.Conv2d(6, 5, 1, bias=False), nn.Conv2d(6, 5, 1, bias=False)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.norm(self.left(x)) + self.norm(self.right(x))

    model, (x, _) = networks.make(Shared), networks.images(40)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    del groups[1:]
    groups = [type(groups[0])(groups[0].name, groups[0].size, groups[0].units, groups[0].producers, (), ())]
    assert SequentialRefitter(model, groups, [x])._norms == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_are_solved_in_full_precision(dtype):
    x, _ = networks.images(100)
    full = refitted(networks.make(Chain), [x])
    half = refitted(networks.make(Chain).to(dtype), [x.to(dtype)], example=x[:1].to(dtype))
    assert {tensor.dtype for tensor in half.values() if tensor.is_floating_point()} == {dtype}
    for name in ("second.weight", "head.weight", "head.bias"):
        difference = (half[name].float() - full[name]).norm() / full[name].norm()
        assert difference < (0.05 if dtype is torch.bfloat16 else 0.01), name


# ---------------------------------------------------------------------- nothing is left behind


class Failing(Chain):
    """Fails at the last batch, once it is asked to."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.fails = False

    def forward(self, x):
        self.calls += 1
        torch.rand(())
        features = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        if self.fails and len(x) == 7:
            raise RuntimeError("out of luck")
        return self.head(features.mean(dim=(2, 3)))


def everything(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    return ([m.training for m in model.modules()], hooks, flags, threading.active_count())


@pytest.mark.parametrize("stored", [1 << 30, 0])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_changes_whether_the_refit_works_or_fails(stored, fails):
    model, (x, _) = networks.make(Failing).train(), networks.images(71)
    model.head.eval()
    model.second.requires_grad_(False)
    groups = find_channel_groups(networks.make(Chain), x[:1])
    before, state = everything(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    random = torch.get_rng_state()
    batches = [x[:64], Batch((x[64:],))]

    def run():
        model.fails = fails and stored > 0
        refitter = SequentialRefitter(model, groups, batches, store_bytes=stored)
        refitter._private.fails = refitter._dense.model.fails = fails
        refitter.state(PLAN)

    if fails:
        with pytest.raises(RuntimeError, match="out of luck"):
            run()
    else:
        run()
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])] == []


def test_the_callers_contexts_do_not_reach_the_refit():
    x, _ = networks.images(40)
    model = networks.make(Chain)
    groups = find_channel_groups(model, x[:1])
    expected = SequentialRefitter(model, groups, [x]).state(PLAN)
    with torch.autocast("cpu", torch.bfloat16):
        cast = SequentialRefitter(model, groups, [x]).state(PLAN)
    with torch.inference_mode():
        inference = SequentialRefitter(model, groups, [x.clone()]).state(PLAN)
    assert_same(cast, expected, atol=0, rtol=0)
    assert_same(inference, expected, atol=0, rtol=0)


@pytest.mark.parametrize(("wrapper", "named"), [(nn.DataParallel, None), (torch.jit.script, "TorchScript")])
def test_wrappers_are_taken_off_or_named(wrapper, named):
    x, _ = networks.images(40)
    model = networks.make(Chain)
    groups = find_channel_groups(model, x[:1])
    wrapped = wrapper(model)
    if named is None:
        assert_same(SequentialRefitter(wrapped, groups, [x]).state(PLAN), refitted(model, [x]), atol=0, rtol=0)
    else:
        with pytest.raises(TypeError, match=named):
            SequentialRefitter(wrapped, groups, [x])
