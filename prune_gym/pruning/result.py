"""Result of pruning a network: the smaller network, its numbers, and ways to keep both."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prune_gym.pruning.numbers import NetworkNumbers
from prune_gym.pruning.targets import Targets
from prune_gym.saving.checkpoint import save_pruned
from prune_gym.saving.export import Parity, export_onnx

TIERS = {
    "one_shot": "cut and refitted by least squares",
    "reconstructed": "then matched to the dense network on unlabelled images",
}


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned network and what is known of it.

    Attributes:
        model: the smaller network, in evaluation mode, where the dense one was.
        tier: what was done to its weights: ``"one_shot"`` or ``"reconstructed"``.
        targets: what was asked for.
        scored_by: ``"accuracy"``, ``"agreement with the dense network"`` or the metric's name.
        scored_on: ``"test"`` or ``"held-out"`` images.
        dense: numbers of the dense network.
        one_shot: numbers after cutting and refitting.
        pruned: numbers of :attr:`model`.
        kept: layer -> kept channel indices of the dense network.
        ratios: layer -> share of its channels removed.
        plans_measured: distinct plans measured on the held-out images.
        batch_size: images of the timed batch.
        seconds: stage -> wall time, s.
        warnings: what to know before trusting the numbers.
        example_input: one image [1, ...].
    """

    model: nn.Module
    tier: str
    targets: Targets
    scored_by: str
    scored_on: str
    dense: NetworkNumbers
    one_shot: NetworkNumbers
    pruned: NetworkNumbers
    kept: Mapping[str, Sequence[int]]
    ratios: Mapping[str, float]
    plans_measured: int
    batch_size: int
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    example_input: Tensor
    _dense_model: nn.Module = field(repr=False)

    @property
    def flops_reduction(self) -> float:
        """Share of the FLOPs removed."""
        return 1.0 - self.pruned.flops / self.dense.flops

    @property
    def params_reduction(self) -> float:
        """Share of the parameters removed."""
        return 1.0 - self.pruned.params / self.dense.params

    @property
    def latency_share(self) -> float:
        """Latency of a batch as a share of the dense network's, both measured."""
        return self.pruned.latency_ms / self.dense.latency_ms

    @property
    def drop(self) -> float:
        """Loss of score, in percentage points."""
        return 100.0 * (self.dense.score.value - self.pruned.score.value)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table of the report: what, dense, pruned, change."""
        dense, pruned = self.dense, self.pruned
        points = self.pruned.score.error is not None
        change = f"{-self.drop:+.2f} points" if points else f"{pruned.score.value - dense.score.value:+.4f}"
        return [
            (f"{self.scored_by}, {self.scored_on} images", str(dense.score), str(pruned.score), change),
            ("FLOPs", _count(dense.flops), _count(pruned.flops), f"-{100 * self.flops_reduction:.1f} %"),
            ("parameters", _count(dense.params), _count(pruned.params), f"-{100 * self.params_reduction:.1f} %"),
            (
                f"latency, batch of {self.batch_size}",
                f"{dense.latency_ms:.2f} ms",
                f"{pruned.latency_ms:.2f} ms",
                f"{self.latency_share:.2f}x",
            ),
            (
                "latency, one image",
                f"{dense.image_ms:.2f} ms",
                f"{pruned.image_ms:.2f} ms",
                f"{pruned.image_ms / dense.image_ms:.2f}x",
            ),
            (
                "weights",
                f"{dense.bytes / 2**20:.2f} MiB",
                f"{pruned.bytes / 2**20:.2f} MiB",
                f"{pruned.bytes / dense.bytes:.2f}x",
            ),
        ]

    def report(self) -> str:
        """The table as Markdown, with what was asked for and what to know."""
        score = self.pruned.score
        error = "" if score.error is None else f", standard error {100 * score.error:.2f} points"
        lines = [
            f"**Asked for:** {self.targets.described()}.",
            "",
            "| | dense | pruned | change |",
            "| --- | ---: | ---: | ---: |",
            *(f"| {' | '.join(row)} |" for row in self.rows()),
            "",
            f"Scored on {score.images:,} {self.scored_on} images{error}. Weights: {self._weights()}.",
        ]
        return "\n".join([*lines, *(f"\nWarning: {warning}." for warning in self.warnings)])

    def _weights(self) -> str:
        words = [words for tier, words in TIERS.items() if tier == "one_shot" or tier == self.tier]
        return ", ".join(words)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        factory: str | Callable[..., nn.Module] | None = None,
        factory_kwargs: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save the network for :func:`prune_gym.load_pruned`: safetensors and a JSON manifest, no pickle.

        Args:
            path: ``<stem>.safetensors``.
            factory: what builds the dense network: a registered name, or a callable that is passed to ``load_pruned``
                again. None: a copy of the dense network, so that ``load_pruned(path, factory=...)`` needs a function
                that returns one.
            factory_kwargs: its keyword arguments.

        Returns:
            Path of the weights.

        Raises:
            ValueError: the factory's network is not the dense one's structure.
            OSError: the files cannot be written.
        """
        return save_pruned(
            path,
            self.model,
            factory=(lambda: copy.deepcopy(self._dense_model)) if factory is None else factory,
            factory_kwargs=factory_kwargs,
            kept=self.kept,
            metrics={
                "scored_by": self.scored_by,
                "dense": asdict(self.dense),
                "pruned": asdict(self.pruned),
                "flops_reduction": self.flops_reduction,
            },
        )

    def to_onnx(self, path: str | os.PathLike[str]) -> Parity:
        """Write an ONNX file that takes any batch size, after comparing it with the network in onnxruntime.

        Args:
            path: ``*.onnx``.

        Returns:
            The largest difference found.

        Raises:
            ImportError: the ONNX libraries are not installed (``pip install 'prune-gym[onnx]'``).
            ValueError: the network cannot be exported, or the file computes something else; nothing is written.
        """
        device = next(self.model.parameters()).device
        try:
            return export_onnx(self.model, self.example_input.to(device), path)
        except ValueError:
            # Code that fixes the batch size can be exported for that size.
            return export_onnx(self.model, self.example_input.to(device), path, dynamic_batch=False)


def _count(value: float) -> str:
    """A count with a prefix: 12,345,678 -> "12.35 M"."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:.0f}"
