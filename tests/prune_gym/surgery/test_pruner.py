"""A plan becomes exactly the smaller network it describes, or an error; the input model is never touched."""

import copy
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from hessian import HOBSSensitivityAnalyzer
from hessian.channels import UnsupportedStructureError
from prune_gym.data.splits import TensorSplit
from prune_gym.surgery import cutting as surgery
from prune_gym.surgery.cutting import check_against_prediction
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.surgery.sizes import broken_promises
from prune_gym.tasks.models import resnet20
from tests.prune_gym.surgery_networks import BY_NAME, CASES, LayerScale, masked_outputs


@pytest.fixture
def residual():
    case = BY_NAME["residual"]
    return case.model(), case.inputs(), case


def snapshot(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(name, parameter.requires_grad, id(parameter)) for name, parameter in model.named_parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    )


def assert_untouched(model, before):
    after = snapshot(model)
    assert after[1:] == before[1:]
    for name, tensor in before[0].items():
        assert torch.equal(after[0][name], tensor), name
    assert all(parameter.grad is None for parameter in model.parameters())


# --- the result ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pruned_logits_equal_the_dense_ones_with_the_channels_zeroed(case, device):
    model, inputs = case.model().to(device), case.inputs().to(device)
    pruned = PhysicalPruner(model, inputs).prune(case.plan)
    with torch.no_grad():
        torch.testing.assert_close(pruned(inputs), masked_outputs(case, model, case.plan, inputs))
    assert {tensor.device for tensor in pruned.state_dict().values()} == {device}
    assert broken_promises(pruned) == []


@settings(max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_legal_plan_on_any_coupling_equals_masking(data):
    case = data.draw(st.sampled_from(CASES))
    model, inputs = case.model(), case.inputs()
    pruner = PhysicalPruner(model, inputs)
    plan = {}
    for group in pruner.groups:
        units = data.draw(st.sets(st.integers(0, group.num_units - 1), max_size=group.num_units - 1))
        plan[group.name] = [channel for unit in sorted(units) for channel in group.units[unit]]
    with torch.no_grad():
        torch.testing.assert_close(pruner.prune(plan)(inputs), masked_outputs(case, model, plan, inputs))


def test_every_coupled_tensor_shrinks(residual):
    model, inputs, _ = residual
    pruned = PhysicalPruner(model, inputs).prune({"stem": [1, 4], "a": [0]})
    shapes = {name: list(tensor.shape) for name, tensor in pruned.state_dict().items()}
    assert shapes["stem.weight"] == [4, 2, 3, 3]
    assert shapes["bn.running_var"] == shapes["bn_b.weight"] == [4]
    assert shapes["a.weight"] == [3, 4, 3, 3]
    assert shapes["b.weight"] == [4, 3, 3, 3]
    assert shapes["head.weight"] == [3, 4]
    assert (pruned.b.in_channels, pruned.b.out_channels, pruned.bn_b.num_features) == (3, 4, 4)


def test_layer_norm_and_bare_parameters_are_cut_with_their_stream():
    torch.manual_seed(0)
    model, inputs = LayerScale().eval(), torch.randn(2, 2, 4, 4)
    pruned = PhysicalPruner(model, inputs).prune({"stem": [0, 3], "expand": [7]})
    kept = [1, 2, 4, 5]
    assert pruned.norm.normalized_shape == (4,)
    assert torch.equal(pruned.scale, model.scale[kept])
    assert (pruned.depthwise.groups, pruned.depthwise.in_channels) == (4, 4)
    assert torch.equal(pruned.reduce.weight, model.reduce.weight[kept][:, :7])
    assert isinstance(pruned.scale, nn.Parameter)


def test_resnet20_shrinks_to_the_expected_widths_and_still_trains():
    torch.manual_seed(0)
    model, inputs = resnet20(widths=(4, 6, 8)), torch.randn(2, 1, 8, 8)
    pruner = PhysicalPruner(model, inputs)
    assert len(pruner.groups) == 12
    pruned = pruner.prune({group.name: range(group.size // 2) for group in pruner.groups})
    assert pruned.layer3[2].conv2.weight.shape == (4, 4, 3, 3)
    before = pruned.conv1.weight.detach().clone()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    nn.functional.cross_entropy(pruned(inputs), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert not torch.equal(pruned.conv1.weight, before)


def test_an_empty_plan_gives_an_equal_copy(residual):
    model, inputs, _ = residual
    for plan in ({}, {"stem": []}):
        copied = PhysicalPruner(model, inputs).prune(plan)
        assert copied is not model
        assert torch.equal(copied(inputs), model(inputs))


def test_one_pruner_serves_many_plans(residual):
    model, inputs, case = residual
    pruner = PhysicalPruner(model, inputs)
    first, other, again = (pruner.prune(plan) for plan in (case.plan, {"a": [1]}, case.plan))
    assert torch.equal(first(inputs), again(inputs))
    assert other.stem.out_channels == 6


def test_no_example_input_means_imagenet_images():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    pruner = PhysicalPruner(model)
    assert pruner.example_input.shape == (1, 3, 224, 224)
    assert pruner.example_input.dtype == torch.float64
    assert pruner.prune({"0": [2]})[0].out_channels == 3


def test_several_inputs_are_given_as_a_tuple():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 1), nn.Conv2d(3, 4, 1)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x, y):
            return self.head(self.a(x) + self.b(y))

    pruned = PhysicalPruner(TwoInputs(), (torch.randn(1, 2, 3, 3), torch.randn(1, 3, 3, 3))).prune({"a": [0]})
    assert pruned.b.out_channels == 3


# --- what is left alone -------------------------------------------------------------------------------------------


def test_the_input_model_is_never_modified(residual):
    model, inputs, case = residual
    model.train()
    model.bn.eval()
    model.stem.weight.requires_grad_(False)
    before = snapshot(model)
    pruner = PhysicalPruner(model, inputs)
    pruned = pruner.prune(case.plan)
    with pytest.raises(ValueError, match="but it has channels 0 to 5"):
        pruner.prune({"stem": [99]})
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert_untouched(model, before)


def test_mode_and_requires_grad_of_every_part_are_preserved(residual):
    model, inputs, case = residual
    model.train()
    model.bn.eval()
    model.stem.weight.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    pruned = PhysicalPruner(model, inputs).prune(case.plan)
    assert {name: module.training for name, module in pruned.named_modules()} == {
        name: module.training for name, module in model.named_modules()
    }
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    assert frozen == {"stem.weight", "head.bias"}
    assert all(parameter.grad is None and parameter.is_leaf for parameter in pruned.parameters())


def test_channels_last_weights_stay_channels_last(residual):
    model, inputs, case = residual
    model = model.to(memory_format=torch.channels_last)
    pruned = PhysicalPruner(model, inputs).prune(case.plan)
    assert pruned.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert not pruned.a.weight.is_contiguous()


def test_a_wholly_frozen_network_is_cut_all_the_same(residual):
    model, inputs, case = residual
    expected = PhysicalPruner(model, inputs).prune(case.plan)(inputs)
    model.requires_grad_(False)
    pruned = PhysicalPruner(model, inputs).prune(case.plan)
    assert torch.equal(pruned(inputs), expected)
    assert not any(parameter.requires_grad for parameter in pruned.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_inside_contexts_that_switch_autograd_off(residual, context):
    model, inputs, case = residual
    with context():
        pruned = PhysicalPruner(model, inputs * 1.0).prune(case.plan)
    assert not pruned.stem.weight.is_inference()
    pruned(inputs).sum().backward()
    assert pruned.stem.weight.grad is not None


def test_surgery_draws_no_random_numbers_and_says_nothing(residual):
    model, inputs, case = residual
    layer_scale = LayerScale().eval()
    state = torch.get_rng_state()
    out = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(out):
        warnings.simplefilter("error")
        PhysicalPruner(model, inputs).prune(case.plan)
        PhysicalPruner(layer_scale, inputs).prune({"stem": [0]})
    assert out.getvalue() == ""
    assert torch.equal(torch.get_rng_state(), state)


def test_ignored_layers_are_not_offered(residual):
    model, inputs, _ = residual
    for ignored in ("a", model.a):
        pruner = PhysicalPruner(model, inputs, ignored_layers=[ignored])
        assert [group.name for group in pruner.groups] == ["stem"]
        with pytest.raises(ValueError, match="'a' is not prunable"):
            pruner.prune({"a": [0]})


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_coupled_layer_may_be_named_by_any_of_its_producers(residual):
    model, inputs, _ = residual
    pruner = PhysicalPruner(model, inputs)
    assert pruner.resolve({"b": [4, 1]}) == {"stem": [1, 4]}
    assert pruner.resolve({"b": [4, 1], "stem": [1, 4]}) == {"stem": [1, 4]}
    assert torch.equal(pruner.prune({"b": [4, 1]})(inputs), pruner.prune({"stem": [1, 4]})(inputs))


@pytest.mark.parametrize(
    "removed",
    [[1, 3], (3, 1), {1, 3}, range(1, 4, 2), np.array([1, 3]), torch.tensor([1, 3]), [np.int64(1), torch.tensor(3)]],
    ids=lambda removed: type(removed).__name__,
)
def test_any_sequence_of_integers_is_a_list_of_channels(residual, removed):
    model, inputs, _ = residual
    assert PhysicalPruner(model, inputs).resolve({"stem": removed}) == {"stem": [1, 3]}


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"stern": [0]}, ValueError, r"'stern' is not a layer.*did you mean 'stem'\?.*prunable: stem, a"),
        ({"head": [0]}, ValueError, r"'head' is not prunable.*prunable: stem, a"),
        ({"bn_b": [0]}, ValueError, "'bn_b' carries the channels of 'stem'"),
        ({"stem": [0], "b": [1]}, ValueError, "'stem' and 'b' are both the layer 'stem'"),
        ({"stem": [2, 1, 2]}, ValueError, r"repeats channels \[2\]"),
        ({"stem": [6]}, ValueError, r"removes channels \[6\], but it has channels 0 to 5"),
        ({"stem": [-1]}, ValueError, r"removes channels \[-1\]"),
        ({"a": [0, 1, 2, 3]}, ValueError, "removes all 4 channels of layer 'a'; keep at least one"),
        ({"a": [0.0]}, TypeError, "integer channel indices, got 0.0"),
        ({"a": [True, False, False, True]}, TypeError, "integer channel indices, got True"),
        ({"a": 0.5}, TypeError, "sequence of channel indices, got 0.5.*budget"),
        ({"a": "01"}, TypeError, "sequence of channel indices"),
        ([("a", [0])], TypeError, "maps layer names"),
    ],
)
def test_illegal_plans_are_refused_by_name_before_anything_is_cut(residual, monkeypatch, plan, error, message):
    model, inputs, _ = residual
    pruner = PhysicalPruner(model, inputs)
    monkeypatch.setattr(copy, "deepcopy", lambda *args: pytest.fail("surgery began"))
    with pytest.raises(error, match=message):
        pruner.prune(plan)


def test_units_of_a_grouped_convolution_leave_whole():
    case = BY_NAME["grouped"]
    pruner = PhysicalPruner(case.model(), case.inputs())
    with pytest.raises(ValueError, match=r"splits a unit: channels \[1, 5\] leave together.*but \[5\] would stay"):
        pruner.prune({"inner": [1]})


# --- bad input ----------------------------------------------------------------------------------------------------


def test_an_example_the_model_does_not_run_on_is_named(residual):
    model, _, _ = residual
    with pytest.raises(ValueError, match=r"Residual does not run on an example input of shape \[\[1, 3, 4, 4\]\]"):
        PhysicalPruner(model, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"\[1, 3, 224, 224\]"):
        PhysicalPruner(model)


def test_an_example_on_another_device_is_named(residual):
    model, inputs, _ = residual
    with pytest.raises(ValueError, match=r"example_input is on meta but the model on cpu; pass .*to\('cpu'\)"):
        PhysicalPruner(model, inputs.to("meta"))


def test_what_is_no_model_or_cannot_be_copied_is_named(residual):
    model, inputs, _ = residual
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got a str"):
        PhysicalPruner("resnet50")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model.a)
    model(inputs)
    with pytest.raises(ValueError, match=r"cannot be copied.*remove_weight_norm"):
        PhysicalPruner(model, inputs)


def test_a_foreign_module_cannot_be_ignored(residual):
    model, inputs, _ = residual
    with pytest.raises(ValueError, match="is not a module of the model"):
        PhysicalPruner(model, inputs, ignored_layers=[nn.Conv2d(1, 1, 1)])


def test_a_cut_of_other_channels_than_planned_never_gets_out(residual, monkeypatch):
    model, inputs, case = residual
    before = snapshot(model)
    honest = surgery._function

    def shifted(module, side):
        cut = honest(module, side)
        reads_the_stream = side == "in" and isinstance(module, nn.Conv2d) and module.in_channels == 6
        return (lambda module, removed: cut(module, [index - 1 for index in removed])) if reads_the_stream else cut

    monkeypatch.setattr(surgery, "_function", shifted)
    with pytest.raises(UnsupportedStructureError, match=r"a\.weight kept other channels than the plan says"):
        PhysicalPruner(model, inputs).prune(case.plan)
    assert_untouched(model, before)


def test_a_forgotten_tensor_never_gets_out(residual, monkeypatch):
    model, inputs, case = residual
    honest, forgotten = surgery._function, []

    def forgetful(module, side):
        if isinstance(module, nn.BatchNorm2d) and forgotten.append(module) is None and len(forgotten) == 2:
            return lambda module, removed: None
        return honest(module, side)

    monkeypatch.setattr(surgery, "_function", forgetful)
    with pytest.raises(UnsupportedStructureError, match=r"bn_b\.bias became \[6\] instead of \[4\]"):
        PhysicalPruner(model, inputs).prune(case.plan)


def test_sizes_that_contradict_weights_are_found(residual):
    model, _, _ = residual
    model.a.in_channels = 5
    with pytest.raises(
        UnsupportedStructureError, match=r"a\.weight is \[4, 6, 3, 3\], its attributes say \[4, 5, 3, 3\]"
    ):
        check_against_prediction(model, model.state_dict())


def test_a_network_whose_code_fixes_a_channel_count_is_refused():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

        def forward(self, x):
            x = self.conv(x)
            if x.shape[1] != 4:
                raise RuntimeError("expected 4 channels")
            return self.head(x.mean(dim=(2, 3)))

    with pytest.raises(UnsupportedStructureError, match="'conv' cannot be cut: expected 4 channels"):
        PhysicalPruner(Fixed(), torch.randn(1, 2, 3, 3))


# --- calibration --------------------------------------------------------------------------------------------------


@pytest.fixture
def calibration():
    generator = torch.Generator().manual_seed(3)
    return TensorSplit(torch.randn(64, 2, 4, 4, generator=generator), torch.randint(3, (64,), generator=generator))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refit": "magic"}, ValueError, "unknown refit 'magic'.*'none', 'closed_form', 'sequential'"),
        ({"refit": "closed_form"}, ValueError, "refit='closed_form' needs calibration"),
        ({"refit": "sequential"}, ValueError, "refit='sequential' needs calibration"),
        ({"recalibrate_bn": True}, ValueError, "recalibrate_bn=True needs calibration"),
        ({"calibration": []}, ValueError, "yields no images"),
    ],
)
def test_missing_calibration_is_named(residual, options, error, message):
    model, inputs, case = residual
    with pytest.raises(error, match=message):
        PhysicalPruner(model, inputs).prune(case.plan, **options)


def test_bn_statistics_follow_the_calibration_images_unless_told_otherwise(residual, calibration):
    model, inputs, case = residual
    pruner = PhysicalPruner(model, inputs)
    sliced = pruner.prune(case.plan)
    kept = pruner.prune(case.plan, calibration=calibration, recalibrate_bn=False)
    recalibrated = pruner.prune(case.plan, calibration=calibration)
    assert torch.equal(kept.bn.running_mean, sliced.bn.running_mean)
    with torch.no_grad():
        expected = sliced.stem(calibration.images).mean(dim=(0, 2, 3))
    torch.testing.assert_close(recalibrated.bn.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(recalibrated.stem.weight, sliced.stem.weight)


def error_against_dense(model, pruned, split):
    with torch.no_grad():
        return float((pruned(split.images) - model(split.images)).square().mean())


def test_closed_form_refit_repairs_what_the_cut_broke(residual, calibration):
    model, inputs, case = residual
    pruner = PhysicalPruner(model, inputs)
    options = {"calibration": calibration, "recalibrate_bn": False}
    raw, refitted = (pruner.prune(case.plan, refit=refit, **options) for refit in ("none", "closed_form"))
    assert error_against_dense(model, refitted, calibration) < 0.7 * error_against_dense(model, raw, calibration)
    assert refitted.stem.out_channels == 4
    assert broken_promises(refitted) == []


def test_closed_form_refit_is_the_analyzers_and_takes_a_finished_analysis(residual, calibration):
    model, inputs, case = residual
    analyzer = HOBSSensitivityAnalyzer(model, example_input=inputs)
    analyzer.compute_sensitivity(calibration.batches(100), num_batches=None)
    pruner = PhysicalPruner(model, inputs)
    given_analyzer = pruner.prune(case.plan, refit="closed_form", analyzer=analyzer)
    given_images = pruner.prune(case.plan, refit="closed_form", calibration=calibration, recalibrate_bn=False)
    expected = analyzer.compensate(case.plan)
    for name, tensor in given_analyzer.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
        torch.testing.assert_close(tensor, given_images.state_dict()[name])


def test_a_frozen_network_in_train_mode_is_refitted_too(residual, calibration):
    model, inputs, case = residual
    expected = PhysicalPruner(model, inputs).prune(case.plan, refit="closed_form", calibration=calibration)
    model.train().requires_grad_(False)
    before = snapshot(model)
    loader = list(calibration.batches(100))
    pruned = PhysicalPruner(model, inputs).prune(case.plan, refit="closed_form", calibration=loader)
    assert_untouched(model, before)
    assert pruned.training
    assert not any(parameter.requires_grad for parameter in pruned.parameters())
    torch.testing.assert_close(pruned.state_dict(), expected.state_dict())


def test_sequential_refit_repairs_what_the_cut_broke(residual, calibration):
    pytest.importorskip("hessian.refit.sequential")
    model, inputs, case = residual
    pruner = PhysicalPruner(model, inputs)
    options = {"calibration": calibration, "recalibrate_bn": False}
    raw, refitted = (pruner.prune(case.plan, refit=refit, **options) for refit in ("none", "sequential"))
    assert error_against_dense(model, refitted, calibration) < 0.7 * error_against_dense(model, raw, calibration)
