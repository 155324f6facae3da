"""One small network, task, analysis and agent, and what runs and studies write about them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents import RSPARAgent
from agents.amortised.model import AmortisedModel, Sizes
from benchmarks.settings.reading import parse_config
from benchmarks.settings.schema import Config
from benchmarks.studies.engine.plan_store import Measurement, PlanStore
from benchmarks.sweep.results_table import result_files
from hessian import HOBSSensitivityAnalyzer
from prune_gym.bench.networks import BenchNetwork, load_networks
from prune_gym.bench.plans import NetworkPlans, load_plans
from prune_gym.data.splits import TensorSplit
from prune_gym.problem.problem import PruningProblem
from prune_gym.saving.checkpoint import save_pruned
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.task import PruningTask

COLUMNS = ("task", "method", "seed", "final_accuracy", "budgets")

CONFIG = (
    "model: {{name: resnet20}}\ndataset: {{name: digits}}\nexperiment: {{name: f, save_dir: {0}, random_seeds: [1]}}\n"
)


class Samples:
    """Contents of sound files.

    Args:
        folder: for caches.
    """

    SEED: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def network(self) -> nn.Module:
        """A network with weights that are the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                *(
                    nn.Conv2d(1, 6, 3, padding=1),
                    nn.BatchNorm2d(6),
                    nn.ReLU(),
                    nn.Conv2d(6, 5, 3, padding=1),
                    nn.ReLU(),
                ),
                *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
            ).eval()

    def state(self) -> dict[str, Tensor]:
        """Its weights."""
        return dict(self.network().state_dict())

    @cached_property
    def problem(self) -> PruningProblem:
        """A task of random images, analysed."""
        generator = torch.Generator().manual_seed(0)
        images, labels = torch.randn(24, 1, 6, 6, generator=generator), torch.arange(24) % 3
        split = TensorSplit(images, labels)
        task = PruningTask("fuzz", self.network(), images[:1], split, split, None)
        return PruningProblem(task, device="cpu", cache_dir=self._folder / "cache").load()

    @cached_property
    def hobs(self) -> HOBSSensitivityAnalyzer:
        """The analysis."""
        return self.problem.hobs

    @cached_property
    def agent(self) -> RSPARAgent:
        """An agent that never learned."""
        return RSPARAgent(num_layers=2, layer_feature_dim=3, hidden_dim=4)

    @cached_property
    def amortised(self) -> AmortisedModel:
        """A small amortised model that never learned."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AmortisedModel(Sizes(width=4, members=1))

    @cached_property
    def bench_networks(self) -> list[BenchNetwork]:
        """The two networks of the bench with the fewest layers, and their surrogates."""
        return sorted(load_networks().values(), key=lambda network: (network.num_layers, network.name))[:2]

    @cached_property
    def bench_plans(self) -> list[NetworkPlans]:
        """A few of their measured plans."""
        measured = load_plans()
        return [measured[network.name].select(slice(0, None, 20)) for network in self.bench_networks]

    def submission(self) -> dict[str, Any]:
        """Runs of an agent on the bench."""
        plans = {str(count): [9, 3, 6] for count in (1, 8, 16, 32, 64)}
        runs = [{"network": "plain-3", "target": 0.6, "seed": seed, "plans": plans} for seed in range(3)]
        return {"format": "prune-bench-submission-1", "agent": "fuzz", "about": "nothing", "runs": runs}

    def write_parquet(self, path: Path) -> Path:
        """Results of a sweep as Parquet."""
        result = self.result()
        final = {**result["final"], "bytes_on_disk": 4096}
        content = result_files([{**result, "final": final, "reconstructed": final, "test_images": 60}])[
            "results.parquet"
        ]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    @cached_property
    def plans(self) -> dict[tuple[int, ...], Measurement]:
        """Measured plans."""
        evaluator = self.problem.evaluator
        kept = [(first, second) for first in range(2, 6) for second in range(2, 5)]
        return {plan: Measurement(evaluator.evaluate(plan), 0.125) for plan in kept}

    def write_plans(self, folder: Path) -> Path:
        """The plans as a store of a study keeps them."""
        self.problem.evaluator.seconds.clear()
        self.problem.evaluator.seconds.update({plan: found.seconds for plan, found in self.plans.items()})
        PlanStore(folder, self.problem, "writer").sync()
        return next(folder.rglob("writer.jsonl"))

    def save_pruned(self, folder: Path) -> Path:
        """A pruned network and its manifest; the path of the weights."""
        images = self.problem.task.example_input
        pruned = PhysicalPruner(self.network(), images).prune(self.hobs.plan([4, 3]))
        return save_pruned(folder / "pruned.safetensors", pruned, factory=self.network, metrics={"accuracy": 0.75})

    def config(self, folder: Path) -> Config:
        """The configuration of a run in a folder."""
        return parse_config(CONFIG.format(folder.as_posix()))

    def measured(self) -> list[dict[str, Any]]:
        """Measured plans as an unfinished run keeps them."""
        scores = {"accuracy": 0.75, "soft_accuracy": 0.5, "loss": 1.25}
        return [{"kept": [count, 4], **scores} for count in range(1, 6)]

    def budgets(self) -> dict[str, Any]:
        """Budgets as a search decides them."""
        return {
            "kept": [4, 3],
            "plan": {"0": [1, 5], "3": [0, 2]},
            "accuracy": 0.75,
            "soft_accuracy": 0.5,
            "flops_reduction": 0.61,
            "measured_evaluations": 12,
            "history": [{"episode": 0, "return": 0.125}],
        }

    def result(self) -> dict[str, Any]:
        """Report of a finished run."""
        numbers = {"flops": 1000, "parameters": 200, "latency_ms": 1.5, "throughput_imgs_per_sec": 640.0}
        networks = {name: {"accuracy": 0.875, **numbers} for name in ("dense", "one_shot", "final")}
        return {
            **networks,
            "flops_reduction": 0.61,
            "target_flops_reduction": 0.6,
            "budgets": {"0": 0.25, "3": 0.4},
            "search": {"measured_evaluations": 12, "reward_accuracy": 0.75, "reward_soft_accuracy": 0.5},
            "experiment": "fuzz",
            "task": "fuzz",
            "method": "hobs-rspar",
            "seed": 1,
            "device": "cpu",
            "num_threads": 1,
            "versions": {"torch": "2"},
            "seconds": {"load task": 0.25},
        }

    def rows(self) -> list[dict[str, Any]]:
        """A table of runs."""
        return [
            {"task": "fuzz", "method": "random", "seed": seed, "final_accuracy": seed / 8, "budgets": '{"0":0.25}'}
            for seed in range(1, 6)
        ]
