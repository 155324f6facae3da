"""The mode under which a network runs: every operation of PyTorch is followed by the rule for its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hessian.provenance import combining, movement, regions, weights
from hessian.provenance.facts import Call, Facts, decides, fixed
from hessian.provenance.labels import MisfitError

Rule = Callable[[Facts, Call], None]

_ELEMENTWISE = {
    "clone", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "alias", "detach", "to", "native_dropout",
    "masked_fill", "where", "_prelu_kernel", "prelu", "rrelu_with_noise", "zeros_like", "ones_like", "empty_like",
    "full_like", "rand_like", "randn_like", "bernoulli", "real", "imag", "conj_physical", "hardtanh", "hardswish",
    "hardsigmoid", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus", "threshold", "clamp", "lerp", "addcmul",
    "addcdiv", "copysign", "dropout", "feature_dropout", "nan_to_num", "isnan", "isinf", "isfinite", "celu", "rsub",
    "_conj", "resolve_conj", "resolve_neg", "quantize_per_tensor", "fake_quantize_per_tensor_affine",
    "log_sigmoid_forward",
}  # fmt: skip
_MOVING = {
    "flip", "roll", "repeat", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "im2col", "tril", "triu", "rot90", "unfold_copy", "permute_copy", "expand_copy",
}  # fmt: skip
_REDUCING = {
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
    "logsumexp", "prod", "any", "all", "argmax", "argmin", "median", "nansum", "nanmean",
}  # fmt: skip
_ALONG = {"_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "sort", "argsort", "topk", "glu_"}
_SPATIAL = {
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "mkldnn_max_pool2d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa", "upsample_linear1d", "upsample_trilinear3d", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "fractional_max_pool2d",
    "max_unpool2d",
}  # fmt: skip
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "addbmm"}
_NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm",
}  # fmt: skip
_CONVOLUTIONS = {"convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "slow_conv2d_forward"}
_WRITES_FROM_NOTHING = {"fill", "zero", "normal", "uniform", "random", "exponential", "bernoulli"}
_BY_DATA = {"index", "index_select", "gather", "take", "take_along_dim"}


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = dict.fromkeys(_ELEMENTWISE, combining.elementwise)
    rules.update(dict.fromkeys(_REDUCING, combining.reduction))
    rules.update(dict.fromkeys(_ALONG, combining.along))
    rules.update(dict.fromkeys(_SPATIAL, combining.spatial))
    rules.update(dict.fromkeys(_PRODUCTS, weights.product))
    rules.update(dict.fromkeys(_NORMS, weights.batch_norm))
    rules.update(dict.fromkeys(_CONVOLUTIONS, weights.convolution))
    rules.update(
        native_group_norm=weights.group_norm,
        native_layer_norm=weights.layer_norm,
        embedding=movement.looked_up,
        copy=movement.copied,
        index_put=movement.put,
    )
    rules.update(
        {
            "torchvision::roi_align": regions.pooled,
            "torchvision::roi_pool": regions.pooled,
            "torchvision::nms": regions.chosen,
            "torchvision::deform_conv2d": regions.deformed,
        }
    )
    return rules


RULES = _rules()
MOVING_RULES: dict[str, Callable[[Facts, Call, Any], None]] = {
    **dict.fromkeys(_MOVING, movement.moved),
    **dict.fromkeys(_BY_DATA, movement.picked),
    "constant_pad_nd": movement.padded,
    "cat": movement.joined,
    "stack": movement.joined,
}


class Tracker(TorchDispatchMode):
    """Follows ids through everything that runs inside.

    Args:
        facts: what is known already, and where new facts go.
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.facts = facts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and follow it."""
        result = func(*args, **(kwargs or {}))
        self.facts.decided = self.facts.decided or decides(func, args, kwargs or {}, result)
        self._follow(func, Call.of(func, args, kwargs or {}, result))
        return result

    def _follow(self, func: Any, call: Call) -> None:
        if torch.Tag.inplace_view in func.tags:
            return  # other strides over the same memory
        if _is_view(func, call):
            if _changes_element_size(call):
                for tensor in call.tensors:
                    self.facts.pin(self.facts.map(tensor), f"goes through {call.name}, which is not followed")
                    self.facts.labels.settle(tensor)
                return
            movement.regrouped(self.facts, call)
            return
        writes = func._schema.is_mutable
        if writes and call.name in _WRITES_FROM_NOTHING:
            return
        if not writes:
            for result in call.results:
                if not any(result is tensor for tensor in call.tensors):
                    self.facts.labels.forget(result)
        if call.name.startswith("new_") or not any(self.facts.map(tensor).planes for tensor in call.tensors):
            return  # a new tensor asks another one for its type, or nothing is known of any
        try:
            self._apply(func, call)
        except MisfitError:
            weights.unknown(self.facts, call)
        self._complete(call)

    def _apply(self, func: Any, call: Call) -> None:
        """Follow the rule for an operation that computes.

        Raises:
            MisfitError: its result has another shape than the rule says.
        """
        if call.name in MOVING_RULES and not func._schema.is_mutable:
            MOVING_RULES[call.name](self.facts, call, func)
        elif call.name in RULES:
            RULES[call.name](self.facts, call)
        elif torch.Tag.pointwise in func.tags:
            combining.elementwise(self.facts, call)
        else:
            weights.unknown(self.facts, call)

    def _complete(self, call: Call) -> None:
        """Whatever a rule left open is taken to stay: floating-point results of activations are never free."""
        if not any(self.facts.map(tensor).activation for tensor in call.tensors):
            return
        for result in call.results:
            if self.facts.labels.of(result) is None:
                self.facts.give(result, [fixed(result.ndim)])


def _is_view(func: Any, call: Call) -> bool:
    """Return whether the result shares memory with an argument and nothing was written."""
    if func._schema.is_mutable:
        return False
    results = list(call.results)
    sources = {tensor.untyped_storage()._cdata for tensor in call.tensors if _has_storage(tensor)}
    return bool(results) and all(
        _has_storage(result) and result.untyped_storage()._cdata in sources for result in results
    )


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


def _changes_element_size(call: Call) -> bool:
    sizes = {tensor.element_size() for tensor in (*call.tensors, *call.results) if _has_storage(tensor)}
    return len(sizes) > 1
