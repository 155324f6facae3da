"""Exact curvature quantities: the oracle of the Kronecker model, and the ``use_kfac=False`` path.

* :func:`dense_hessian`, :func:`dense_ggn`: whole matrices by ``torch.func``, for tiny networks.
* :func:`filter_quadratics`, :func:`hutchinson_filter_traces`: per-filter ``1/2 w^T H w`` and traces by
  Hessian-vector products, for real ones.
* :func:`ggn_quadratic`: ``1/2 d^T GGN d`` of any weight change by one forward-mode product.
* :func:`exact_analysis`: prices, orders and curves with the Kronecker quadratic replaced by the exact one.

The loss of one sample is ``criterion(z_n, y_n)``; everything here is averaged over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, vmap

from hessian.channels.slicing import ModuleSlice, Plan
from hessian.kfac.default_loss import has_classes
from hessian.kfac.loss_curvature import Criterion
from hessian.patches.matrices import from_matrix, matrix_columns, to_matrix, weight_matrix
from hessian.pricing.analysis import Analysis
from hessian.support.batches import model_device, read_batches, split_batch
from hessian.support.modes import modes_restored
from hessian.support.names import unknown
from hessian.support.progress import Progress

Deltas = Mapping[str, Tensor]


def sample_losses(outputs: Tensor, labels: Tensor, criterion: Criterion | None) -> Tensor:
    """Loss of every sample, [N]."""
    loss = criterion or F.cross_entropy
    return vmap(lambda z, y: loss(z[None], y[None]))(outputs, labels)


def dense_hessian(model: nn.Module, inputs: Tensor, labels: Tensor, criterion: Criterion | None, name: str) -> Tensor:
    """Hessian of the mean loss in one parameter, [n, n] with n its size.

    Args:
        model: a tiny network, used in evaluation mode.
        inputs: [N, ...].
        labels: [N].
        criterion: None is cross-entropy.
        name: the parameter's qualified name.

    Raises:
        ValueError: unknown parameter.
    """
    parameter = _parameter(model, name)

    def loss(flat: Tensor) -> Tensor:
        outputs = _outputs(model, {name: flat.view_as(parameter)}, inputs)
        return sample_losses(outputs, labels, criterion).mean()

    return hessian(loss)(parameter.detach().reshape(-1))


def dense_ggn(model: nn.Module, inputs: Tensor, labels: Tensor, criterion: Criterion | None, name: str) -> Tensor:
    """Generalised Gauss-Newton matrix of the mean loss in one parameter, [n, n]: ``1/N sum J_n^T H_n J_n``.

    Arguments and errors as for :func:`dense_hessian`.
    """
    parameter = _parameter(model, name)

    def outputs_of(flat: Tensor) -> Tensor:
        return _outputs(model, {name: flat.view_as(parameter)}, inputs)

    flat = parameter.detach().reshape(-1)
    outputs = outputs_of(flat)
    size = outputs[0].numel()
    jacobians = jacrev(outputs_of)(flat).reshape(len(inputs), size, -1)
    loss = criterion or F.cross_entropy
    curvature = vmap(hessian(lambda z, y: loss(z[None], y[None])))(outputs, labels).reshape(-1, size, size)
    return torch.einsum("nip,nij,njq->pq", jacobians, curvature, jacobians) / len(inputs)


def filter_quadratics(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    criterion: Criterion | None,
    layer: str,
    filters: Sequence[int] | None = None,
) -> Tensor:
    """``1/2 w_i^T H w_i`` of filters (output rows) of a layer: [filters], one Hessian-vector product each.

    The predicted loss change of zeroing the filter (OBD with the exact Hessian).

    Args:
        model: the network, used in evaluation mode.
        inputs: [N, ...].
        labels: [N].
        criterion: None is cross-entropy.
        layer: a convolution or linear layer.
        filters: which ones; all by default.
    """
    weight = _parameter(model, f"{layer}.weight").detach()
    gradient = _gradient_of(model, inputs, labels, criterion, f"{layer}.weight")
    prices = []
    for row in range(len(weight)) if filters is None else filters:
        direction = torch.zeros_like(weight)
        direction[row] = weight[row]
        _, product = _jvp(gradient, (weight,), (direction,))
        prices.append(0.5 * (product * direction).sum())
    return torch.stack(prices)


def hutchinson_filter_traces(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    criterion: Criterion | None,
    layer: str,
    *,
    probes: int,
    generator: torch.Generator,
) -> Tensor:
    """Trace of every filter's Hessian block by random signs (Hutchinson): [d_out]."""
    weight = _parameter(model, f"{layer}.weight").detach()
    gradient = _gradient_of(model, inputs, labels, criterion, f"{layer}.weight")
    total = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    for _ in range(probes):
        signs = torch.randint(0, 2, weight.shape, generator=generator, device=weight.device).to(weight.dtype) * 2 - 1
        _, product = _jvp(gradient, (weight,), (signs,))
        total += (product * signs).flatten(1).sum(dim=1)
    return total / probes


def ggn_quadratic(
    model: nn.Module, inputs: Tensor, labels: Tensor, criterion: Criterion | None, deltas: Deltas
) -> Tensor:
    """``1/2 d^T GGN d`` of a weight change, averaged over samples: one forward-mode pass.

    Args:
        model: the network, used in evaluation mode.
        inputs: [N, ...].
        labels: [N].
        criterion: None is cross-entropy.
        deltas: parameter name -> change, of the parameter's shape.

    Returns:
        Scalar.
    """
    primals = {name: _parameter(model, name).detach() for name in deltas}
    outputs, change = _jvp(lambda parameters: _outputs(model, parameters, inputs), (primals,), (dict(deltas),))
    gradient = grad(lambda z: sample_losses(z, labels, criterion).sum())
    _, curved = _jvp(gradient, (outputs.detach(),), (change.detach(),))
    return 0.5 * (curved * change).sum().detach() / len(inputs)


def exact_analysis(
    analysis: Analysis,
    dataloader: Iterable[Any],
    criterion: Criterion | None,
    num_batches: int | None,
    *,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Prices, orders, curves and curves without repair from exact quadratics, in the meaning H-OBS gives them.

    A unit's price is the exact GGN quadratic of removing it and repairing its consumers by least squares. Units are
    ordered by that price, and the curve is the exact quadratic of every prefix, repaired jointly. Two forward passes a
    unit and layer: for small networks.

    Args:
        analysis: its structure and factors are known (the repair uses the input factors).
        dataloader: yields (inputs, labels) batches; images alone do for cross-entropy, whose curvature asks no labels.
        criterion: None is cross-entropy.
        num_batches: batches to read.
        progress: called with (description, done, total).

    Raises:
        ValueError: no labels, and a criterion or outputs that need some.
    """
    batches = list(_labelled(analysis.model, dataloader, criterion, num_batches))
    prices, orders, curves, obd = {}, {}, {}, {}

    def price(plan: Plan, repaired: bool) -> float:
        deltas = removal_deltas(analysis, plan, repaired=repaired)
        total = sum(float(ggn_quadratic(analysis.model, x, y, criterion, deltas)) * len(x) for x, y in batches)
        return total / sum(len(x) for x, _ in batches)

    for done, group in enumerate(analysis.groups, start=1):
        single = [price({group.name: list(unit)}, True) for unit in group.units]
        prices[group.name] = torch.tensor(single, dtype=torch.float64)
        order = torch.argsort(prices[group.name], stable=True)
        prefixes = [{group.name: group.channels(order[:count].tolist())} for count in range(1, group.num_units)]
        repaired = [price(plan, True) for plan in prefixes]
        zeroed = [price(plan, False) for plan in prefixes]
        orders[group.name] = order
        curves[group.name] = torch.tensor([0.0, *repaired], dtype=torch.float64).cummax(0).values
        obd[group.name] = torch.tensor([0.0, *zeroed], dtype=torch.float64)
        if progress is not None:
            progress("exact quadratics", done, len(analysis.groups))
    return prices, orders, curves, obd


def _labelled(
    model: nn.Module, data: Any, criterion: Criterion | None, num_batches: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of inputs and labels; where there are none, the network's own classes, of which cross-entropy asks nothing.

    Raises:
        ValueError: no labels where a criterion or outputs need some.
    """
    for batch in read_batches(data, model_device(model), num_batches):
        if batch.labels is not None or batch.images is None or criterion is not None:
            yield split_batch((batch.images, batch.labels))
            continue
        with torch.no_grad(), modes_restored(model):
            outputs = model.eval()(batch.images)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not has_classes(outputs):
            raise ValueError(
                "exact quadratics without labels are those of cross-entropy, for outputs [N, classes]: give batches of "
                "(images, labels) and a criterion, or use Kronecker factors (use_kfac=True)"
            )
        yield batch.images, outputs.argmax(1)


def removal_deltas(analysis: Analysis, plan: Plan, *, repaired: bool) -> dict[str, Tensor]:
    """Weight changes at the dense shapes that remove a plan's channels from every consumer.

    Args:
        analysis: with factors.
        plan: layer name -> removed channel indices.
        repaired: refit the kept columns (and the absorbed shift) or leave them.

    Returns:
        Parameter name -> change.
    """
    compensator = analysis.compensator
    modules: dict[str, Any] = dict(analysis.model.named_modules())
    deltas: dict[str, Tensor] = {}
    for name, part in compensator.slicer.cut(plan).slices.items():
        if part.columns is None or name not in analysis.factors:
            continue
        module = modules[name]
        kept = _kept_columns(module, part)
        full = torch.zeros_like(weight_matrix(module, bias=False))
        if repaired and name in compensator.factors:
            weight, shift = compensator.refitted(name, part)
            full[:, :, kept] = to_matrix(module, weight, None)
            deltas.update(_shift_delta(analysis, modules, name, shift))
        else:
            full[:, :, kept] = weight_matrix(module, bias=False)[:, :, kept]
        weight_full, _ = from_matrix(module, full, bias=False)
        deltas[f"{name}.weight"] = weight_full - module.weight.detach()
    return deltas


def _kept_columns(module: Any, part: ModuleSlice) -> Tensor:
    positions = part.weight_columns(module)
    assert positions is not None
    return matrix_columns(module, positions[None])[0]


def _shift_delta(analysis: Analysis, modules: Mapping[str, Any], name: str, shift: Tensor | None) -> dict[str, Tensor]:
    """An output shift as a change of the consumer's own bias, or of the bias of the BatchNorm that absorbs it."""
    if shift is None:
        return {}
    if modules[name].bias is not None:
        return {f"{name}.bias": shift - modules[name].bias.detach()}
    norm_name = analysis.norms[name]
    norm = modules[norm_name]
    if not norm.affine:
        return {}
    return {f"{norm_name}.bias": shift * norm.weight.detach() / (norm.running_var + norm.eps).sqrt()}


def _jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """Value and forward-mode derivative along the tangents."""
    value, derivative = torch.func.jvp(function, primals, tangents)[:2]
    return value, derivative


def _gradient_of(model: nn.Module, inputs: Tensor, labels: Tensor, criterion: Criterion | None, name: str) -> Any:
    def loss(parameter: Tensor) -> Tensor:
        outputs = _outputs(model, {name: parameter}, inputs)
        return sample_losses(outputs, labels, criterion).mean()

    return grad(loss)


def _outputs(model: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
    with modes_restored(model):
        return functional_call(model.eval(), parameters, (inputs,))


def _parameter(model: nn.Module, name: str) -> Tensor:
    parameters = dict(model.named_parameters())
    if name not in parameters:
        raise ValueError(unknown("parameter", name, parameters))
    return parameters[name]
