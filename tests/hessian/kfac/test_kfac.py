"""Kronecker factors against exact curvature, a peer library, and the promises of the hooks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian import KFACHessianApproximator
from hessian.pricing.exact import dense_ggn
from tests.hessian import networks

SUM_MSE = nn.MSELoss(reduction="sum")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def factors_of(model, batches, criterion=None, fisher="type-2", **kwargs):
    approximator = KFACHessianApproximator(model, dtype=torch.float64, **kwargs)
    return approximator.estimate(batches, criterion, None, fisher)


def kron(factors):
    return torch.kron(factors.G[0], factors.A[0])


def test_exact_for_a_deep_linear_network_with_squared_error():
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3))).double()
    x, y = randn(10, 4), randn(10, 4, seed=1)
    factors = factors_of(model, [(x, y)], SUM_MSE)
    for name in ("0", "1", "2"):
        exact = dense_ggn(model, x, y, SUM_MSE, f"{name}.weight")
        torch.testing.assert_close(kron(factors[name]), exact, atol=1e-10, rtol=1e-10)


def test_exact_for_one_sample_at_one_position():
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    x, y = randn(1, 5), torch.tensor([1])
    factors = factors_of(model, [(x, y)])
    for name in ("0", "2"):
        torch.testing.assert_close(
            kron(factors[name]), dense_ggn(model, x, y, None, f"{name}.weight"), atol=1e-10, rtol=1e-10
        )


def test_expand_is_exact_for_a_convolution_with_a_loss_per_location():
    model = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    x, y = randn(4, 2, 5, 4), randn(4, 3, 5, 4, seed=1)
    net = nn.Sequential(model)
    exact = dense_ggn(net, x, y, SUM_MSE, "0.weight")
    torch.testing.assert_close(kron(factors_of(net, [(x, y)], SUM_MSE)["0"]), exact, atol=1e-10, rtol=1e-10)


class PooledConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.head = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.head(self.conv(x).mean(dim=(2, 3)))


def test_reduce_is_exact_for_a_convolution_before_global_pooling():
    model = PooledConv().double()
    x, y = randn(6, 2, 5, 4), randn(6, 3, seed=1)
    factors = factors_of(model, [(x, y)], SUM_MSE, approximation="reduce")
    # G is E[g] over samples of a quadratic loss: constant, so the product of the means is the mean of the products.
    exact = dense_ggn(model, x, y, SUM_MSE, "conv.weight")
    torch.testing.assert_close(kron(factors["conv"]), exact, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_factors_agree_with_curvlinops(approximation):
    curvlinops = pytest.importorskip("curvlinops")
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4 * 4, 3)
    ).double()
    x, y = randn(8, 2, 6, 6), torch.arange(8) % 3
    ours = factors_of(model, [(x, y)], approximation=approximation)
    operator = curvlinops.KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(reduction="sum"),
        list(model.parameters()),
        [(x, y)],
        fisher_type="type-2",
        kfac_approx=approximation,
        num_data=8,
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    scale = len(x)
    blocks = operator @ torch.eye(operator.shape[1], dtype=torch.float64)
    offset = 0
    for name in ("0", "2", "4"):
        module = model.get_submodule(name)
        size = module.weight.numel()
        mine = torch.kron(ours[name].G[0], ours[name].A[0][:-1, :-1])
        theirs = blocks[offset : offset + size, offset : offset + size]
        ratio = theirs.diagonal().sum() / mine.diagonal().sum()
        torch.testing.assert_close(theirs, mine * ratio)
        assert ratio.item() == pytest.approx(scale, rel=1e-6) or ratio.item() == pytest.approx(1, rel=1e-6)
        offset += size + module.bias.numel()


@pytest.mark.parametrize("fisher", ["sketch", "mc"])
def test_one_pass_estimators_are_unbiased_for_type_2(fisher):
    model, (x, y) = networks.make(networks.Residual).double(), networks.images(16)
    x = x.double()
    exact = factors_of(model, [(x, y)])["conv1"].G
    estimates = [factors_of(model, [(x, y)], fisher=fisher, seed=seed)["conv1"].G for seed in range(200)]
    mean = torch.stack(estimates).mean(dim=0)
    assert (mean - exact).norm() < 0.15 * exact.norm()


def test_the_sketch_has_a_lower_error_than_sampled_labels_on_a_confident_network():
    model, (x, y) = networks.make(networks.Residual).double(), networks.images(32)
    x = x.double()
    model.head.weight.data *= 8
    exact = factors_of(model, [(x, y)])["conv1"].G

    def error(fisher):
        estimates = [factors_of(model, [(x, y)], fisher=fisher, seed=seed)["conv1"].G for seed in range(12)]
        return torch.stack([(estimate - exact).norm() for estimate in estimates]).mean()

    assert error("sketch") < 0.7 * error("mc")


def test_factors_do_not_depend_on_the_batch_split():
    model, (x, y) = networks.make(networks.Grouped).double(), networks.images(12)
    x = x.double()
    whole = factors_of(model, [(x, y)])
    parts = factors_of(model, [(x[:5], y[:5]), (x[5:], y[5:])])
    for name in whole:
        torch.testing.assert_close(whole[name].A, parts[name].A)
        torch.testing.assert_close(whole[name].G, parts[name].G)


def test_grouped_factors_are_those_of_the_groups_run_separately():
    grouped = nn.Conv2d(4, 6, 3, groups=2, bias=False).double()
    x, y = randn(5, 4, 5, 5), randn(5, 6, 3, 3, seed=1)
    joint = factors_of(nn.Sequential(grouped), [(x, y)], SUM_MSE)["0"]
    for index in range(2):
        single = nn.Conv2d(2, 3, 3, bias=False).double()
        single.weight.data = grouped.weight.data[3 * index : 3 * index + 3]
        part = factors_of(
            nn.Sequential(single), [(x[:, 2 * index : 2 * index + 2], y[:, 3 * index : 3 * index + 3])], SUM_MSE
        )["0"]
        torch.testing.assert_close(joint.A[index], part.A[0])
        torch.testing.assert_close(joint.G[index], part.G[0])


def test_a_custom_criterion_gives_the_curvature_of_the_built_in_one():
    model, (x, y) = networks.make(networks.Residual).double(), networks.images(6)
    x = x.double()
    built_in = factors_of(model, [(x, y)])["conv1"].G
    custom = factors_of(model, [(x, y)], lambda z, t: F.nll_loss(z.log_softmax(1), t))["conv1"].G
    torch.testing.assert_close(custom, built_in)


def test_dict_batches_are_read():
    model, (x, y) = networks.make(networks.Residual), networks.images(6)
    pair, mapping = factors_of(model, [(x, y)]), factors_of(model, [{"image": x, "label": y}])
    torch.testing.assert_close(pair["conv1"].G, mapping["conv1"].G)


def test_hooks_in_your_own_loop_see_the_empirical_fisher_of_an_averaged_loss():
    model, (x, y) = networks.make(networks.Residual), networks.images(10)
    expected = KFACHessianApproximator(model).estimate([(x, y)], None, None, "empirical")["conv1"]
    with KFACHessianApproximator(model, update_freq=1).register_hooks() as kfac:
        F.cross_entropy(model(x), y).backward()
        assert kfac.update_factors()
    torch.testing.assert_close(kfac.factors["conv1"].G, expected.G)
    torch.testing.assert_close(kfac.factors["conv1"].A, expected.A)


def test_factors_and_inverses_change_on_every_update_freq_th_call_only():
    model = networks.make(networks.Residual)
    kfac = KFACHessianApproximator(model, update_freq=3).register_hooks()
    changed, inverses = [], []
    for step in range(7):
        x, y = networks.images(4, seed=step)
        F.cross_entropy(model(x), y).backward()
        changed.append(kfac.update_factors())
        inverses.append(kfac.damped_inverses("conv1")[0])
    kfac.remove_hooks()
    assert changed == [True, False, False, True, False, False, True]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(inverses)]
    assert same == [not update for update in changed[1:]]


def test_the_fisher_diagonal_is_the_mean_squared_per_sample_gradient():
    model, (x, y) = networks.make(networks.Residual), networks.images(5)
    kfac = KFACHessianApproximator(model).register_hooks()
    F.cross_entropy(model(x), y).backward()
    kfac.update_factors()
    kfac.remove_hooks()
    expected = torch.zeros_like(model.conv1.weight)
    for n in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[n : n + 1]), y[n : n + 1]).backward()
        expected += model.conv1.weight.grad**2 / len(x)
    torch.testing.assert_close(kfac.compute_fisher_diagonal("conv1"), expected)


def test_the_model_and_its_flags_are_left_alone_and_no_weight_gradient_is_made():
    model, batch = networks.make(networks.Residual).train(), networks.images(4)
    model.head.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    KFACHessianApproximator(model).estimate([batch])
    assert model.training
    assert not model.head.weight.requires_grad
    assert model.conv1.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_in_place_activations_are_no_obstacle():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4))
    assert set(factors_of(model, [networks.images(4)])) == {"0", "2", "4"}


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def test_hooks_are_gone_after_any_exception():
    model, (x, y) = networks.make(networks.Residual), networks.images(4)

    def broken_loader():
        yield x, y
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        KFACHessianApproximator(model).estimate(broken_loader(), num_batches=5)
    assert hooks_of(model) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("batches", "criterion", "message"),
    [
        ([], None, "yields no images"),
        ([networks.images(4)], lambda z, y: F.cross_entropy(z, y, reduction="none"), "must return a scalar"),
        ([(torch.full((2, *networks.IMAGE), torch.nan), torch.tensor([0, 1]))], None, "layer 'stem' has NaN"),
        ([(networks.images(4)[0], networks.images(3)[1])], None, "4 inputs but 3 labels"),
        ([{"picture": 1}], None, "dict batch needs"),
    ],
)
def test_bad_input_is_named(batches, criterion, message):
    with pytest.raises(ValueError, match=message):
        KFACHessianApproximator(networks.make(networks.Residual)).estimate(batches, criterion)


def test_float64_is_used_from_the_first_product_on():
    model, (x, y) = networks.make(networks.Residual), networks.images(40)
    seen = {}
    handle = model.conv1.register_forward_hook(lambda module, inputs, output: seen.update(a=inputs[0].detach()))
    factors = KFACHessianApproximator(model, dtype=torch.float64).estimate([(x, y)])["conv1"]
    handle.remove()
    columns = F.unfold(seen["a"].double(), 3, padding=1).transpose(1, 2).flatten(0, 1)
    assert factors.A.dtype == factors.G.dtype == torch.float64
    torch.testing.assert_close(factors.A[0], columns.T @ columns / len(columns), rtol=1e-13, atol=1e-15)


def test_half_precision_networks_are_summed_up_in_single_precision():
    model, (x, y) = networks.make(networks.Residual), networks.images(8)
    single = KFACHessianApproximator(model).estimate([(x, y)])["conv1"]
    half = KFACHessianApproximator(model.bfloat16()).estimate([(x.bfloat16(), y)])["conv1"]
    assert half.A.dtype == torch.float32
    assert (half.A - single.A).norm() < 0.05 * single.A.norm()


def test_mixed_types_and_devices_are_named_before_any_work():
    model = networks.make(networks.Residual)
    with pytest.raises(ValueError, match=r"images are torch\.float64 but the model's weights torch\.float32"):
        KFACHessianApproximator(model).estimate([(networks.images(2)[0].double(), networks.images(2)[1])])
    model.conv2.double()
    with pytest.raises(ValueError, match=r"mixes types .*'stem'.*'conv2'"):
        KFACHessianApproximator(model).estimate([networks.images(2)])
    model.conv2.to("meta")
    with pytest.raises(ValueError, match=r"one device, found \['cpu', 'meta'\]"):
        KFACHessianApproximator(model).estimate([networks.images(2)])


def test_nan_weights_name_the_layer():
    model = networks.make(networks.Residual)
    model.conv1.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="layer 'conv1' has NaN"):
        KFACHessianApproximator(model).estimate([networks.images(4)])


def test_unknown_names_get_suggestions():
    model = networks.make(networks.Residual)
    with pytest.raises(ValueError, match="did you mean 'conv1'"):
        KFACHessianApproximator(model, layers=["conv_1"])
    with pytest.raises(ValueError, match="'bn1' is a BatchNorm2d"):
        KFACHessianApproximator(model, layers=["bn1"])
    with pytest.raises(ValueError, match="position_stride must be at least 1"):
        KFACHessianApproximator(model, position_stride=0)
    with pytest.raises(ValueError, match="floating-point"):
        KFACHessianApproximator(model, dtype=torch.int64)
    with pytest.raises(ValueError, match="unknown fisher type"):
        KFACHessianApproximator(model).estimate([networks.images(4)], fisher="typo")
    with pytest.raises(ValueError, match="no batch is kept"):
        KFACHessianApproximator(model).compute_fisher_diagonal("conv1")
    with pytest.raises(RuntimeError, match="register_hooks"):
        KFACHessianApproximator(model).update_factors()
