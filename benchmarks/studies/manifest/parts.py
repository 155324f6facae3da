"""Parts of the evidence: which commands make which result files, and which pages read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks" / "results"
STUDIES = "-m benchmarks.studies"
ONE_OFF = f"{STUDIES}.evidence"
AGENTS = f"{STUDIES}.agents --config benchmarks/configs"
METHODS = f"{STUDIES}.methods --seeds 0 1 2 3 4 --reward-images 1000 --test-images 5000 --timed-passes 10 --threads 1"
SHORT = (
    "pruning.finetune.epochs=1 pruning.finetune.max_images=10000 pruning.finetune.batch_size=64 "
    "pruning.rspar.num_episodes=32"
)
"""Fine-tuning and search of the ablations on Fashion-MNIST."""


@dataclass(frozen=True)
class Part:
    """Numbers that are made together.

    Attributes:
        name: what ``--part`` calls it.
        commands: arguments of Python, run one after the other; ``{out}`` is the folder they write to.
        results: files and folders they leave in that folder, which go to ``benchmarks/results``.
        minutes: processor time of one core, roughly.
        timed: whether its numbers are times, which nobody gets twice.
    """

    name: str
    commands: tuple[str, ...]
    results: tuple[str, ...]
    minutes: float
    timed: bool = False

    @cached_property
    def entries(self) -> tuple[str, ...]:
        """Modules that its commands run."""
        named = [command.split()[1] for command in self.commands if command.startswith("-m ")]
        return tuple(f"{name}{tail}" for name in named for tail in ("", ".__main__", ".command"))

    def pages(self, root: Path = ROOT) -> list[str]:
        """Pages that read its results, relative to the checkout."""
        return [page for page, text in _pages(root) if any(_cites(text, result) for result in self.results)]


def _main_job(name: str, minutes: float) -> Part:
    run = f"-m benchmarks.main --config {name} --threads 1 experiment.save_dir={{out}}/runs"
    return Part(name, (run, f"{ONE_OFF}.main_job {{out}}/runs --json {{out}}/{name}.json"), (f"{name}.json",), minutes)


def _ablation(name: str, config: str, options: str, minutes: float) -> Part:
    command = (
        f"-m benchmarks.ablation --config {config} --seeds 42 2024 10086 520 1314 --results {{out}}/{name}.json "
        f"experiment.save_dir={{out}}/runs {options}"
    )
    return Part(name, (command.strip(),), (f"{name}.json",), minutes)


def _one_off(name: str, command: str, minutes: float, *, timed: bool = False) -> Part:
    """A part that one command makes, as one file."""
    return Part(name, (f"{command} --json {{out}}/{name}.json",), (f"{name}.json",), minutes, timed)


def _agents(name: str, config: str, options: str, minutes: float) -> Part:
    folder = f"compare_{name}"
    return Part(folder, (f"{AGENTS}/{config}.yaml save_dir={{out}}/{folder} {options}".strip(),), (folder,), minutes)


def _methods(network: str, minutes: float) -> Part:
    folder = f"compare_fashion_{network}"
    return Part(folder, (f"{METHODS} --task fashion-{network} --out {{out}}/{folder}",), (folder,), minutes)


def _signal(name: str, task: str, targets: str, minutes: float) -> Part:
    return _one_off(f"reward_signal_{name}", f"{ONE_OFF}.reward_signal --task {task} --targets {targets}", minutes)


def _own_network() -> Part:
    return Part("prune_resnet18", (f"{ONE_OFF}.own_network {{out}}",), ("prune_resnet18.json",), 40, timed=True)


PARTS = {
    part.name: part
    for part in (
        _one_off("one_shot_fashion", f"{ONE_OFF}.one_shot --task fashion-resnet20", 3),
        _one_off("reconstruction_networks", f"{ONE_OFF}.reconstruction --networks", 4),
        _one_off("reconstruction", f"{ONE_OFF}.reconstruction", 30),
        _one_off("feature_evidence_digits", f"{ONE_OFF}.feature_evidence --task digits-resnet20", 3),
        _one_off("feature_evidence_fashion", f"{ONE_OFF}.feature_evidence --task fashion-resnet20", 6),
        _signal("digits", "digits-resnet20", "0.84 0.9", 5),
        _signal("digits_resnet56", "digits-resnet56", "0.9", 10),
        _signal("fashion", "fashion-resnet20", "0.5 0.76 0.84", 25),
        _signal("fashion_vgg11", "fashion-vgg11", "0.76 0.84", 20),
        _one_off("audit_digits", f"{STUDIES}.audit --task digits-resnet20 --seeds 0 1 2", 10),
        _one_off("audit_fashion", f"{STUDIES}.audit --task fashion-resnet20 --images 500", 15),
        _one_off("ppo_parity", f"{ONE_OFF}.ppo_parity --out {{out}}/ppo_parity", 60),
        _one_off("method_costs_digits", f"{STUDIES}.methods.costs", 5, timed=True),
        _one_off("speed_env", f"{STUDIES}.speed env --threads 2", 10, timed=True),
        _one_off("speed_hessian", f"{STUDIES}.speed hessian --threads 2", 20, timed=True),
        _one_off("speed_prune", f"{STUDIES}.speed prune --threads 2", 15, timed=True),
        _one_off("speed_prune_1_thread", f"{STUDIES}.speed prune --threads 1", 15, timed=True),
        _one_off("speed_scale", f"{STUDIES}.speed scale --threads 1", 30, timed=True),
        _one_off(
            "speed_memory", f"{STUDIES}.speed env --task digits-resnet20 --rows memory --threads 1", 3, timed=True
        ),
        _one_off("any_network", f"{STUDIES}.any_network", 60),
        _one_off("zoo", f"{STUDIES}.any_network.zoo", 120),
        _one_off("fuzz", "-m benchmarks.fuzz", 30),
        _one_off("crashes", "-m benchmarks.fuzz.crashes --jobs run --points --kills 60", 10),
        _one_off("crashes_sweep", "-m benchmarks.fuzz.crashes --jobs sweep --points --every 12", 10),
        _own_network(),
        _main_job("digits_resnet20", 12),
        _main_job("fashion_resnet20", 90),
        _main_job("fashion_vgg11", 70),
        _methods("resnet20", 150),
        _methods("vgg11", 80),
        _ablation("ablation_digits", "digits_resnet20", "", 60),
        _ablation("ablation_fashion", "fashion_resnet20", SHORT, 150),
        _ablation("ablation_fashion_vgg11", "fashion_vgg11", SHORT, 110),
        _agents("digits_lambda", "compare_digits_lambda", "", 15),
        _agents("agents_fashion_package", "compare_fashion", "targets=[0.91]", 400),
        _agents("agents_fashion_budget", "compare_fashion_budget", "", 120),
        _agents(
            "agents_fashion_refit",
            "compare_fashion",
            "targets=[0.91] fronts.targets=[] environment.repair=sequential",
            400,
        ),
        _agents(
            "agents_fashion_refit_084",
            "compare_fashion",
            "targets=[0.84] agents=[rspar,gp,cmaes,ppo,sac] fronts.targets=[] fronts.agents=[] "
            "environment.repair=sequential",
            240,
        ),
        _agents(
            "agents_fashion_vgg11", "compare_fashion", "tasks=[fashion-vgg11] targets=[0.94] fronts.targets=[]", 200
        ),
        Part(
            "transfer_digits",
            (f"{STUDIES}.transfer --config benchmarks/configs/transfer_digits.yaml save_dir={{out}}/transfer_digits",),
            ("transfer_digits",),
            90,
        ),
        Part(
            "amortised",
            (
                f"{STUDIES}.amortised teach --out {{out}}/amortised",
                f"{STUDIES}.amortised first --out {{out}}/amortised --trusts 0.45 0.6 0.75 0.9 1.0",
                f"{STUDIES}.amortised first --out {{out}}/amortised",
                f"{STUDIES}.amortised search --out {{out}}/amortised",
                f"{STUDIES}.amortised measured --out {{out}}/amortised",
                f"{STUDIES}.amortised fresh --out {{out}}/amortised",
            ),
            ("amortised",),
            60,
        ),
    )
}
"""Every part of the evidence."""

PAST = dict.fromkeys(
    ("alternatives_fashion.json", "signal_limits_fashion.json"),
    "a study of 28 November; its command is gone, its conclusion stands",
)
"""Results that no command makes any more -> why they are kept."""

WRITTEN = ("files.md", "speed_scale.md", "zoo.md", "manifest.json", "checked.json", "leaderboard", "leaderboard.md")
"""Pages beside the results, what this command writes, and what users submit."""


def uncited(results: Path = RESULTS, root: Path = ROOT) -> list[str]:
    """Names in the folder of results that no page cites and that are not written by hand."""
    texts = [text for _, text in _pages(root)]
    names = sorted(path.name for path in results.iterdir() if path.name not in WRITTEN)
    return [name for name in names if not any(_cites(text, name) for text in texts)]


def unmade(results: Path = RESULTS) -> list[str]:
    """Names in the folder of results that no part makes."""
    made = {result for part in PARTS.values() for result in part.results} | {*PAST, *WRITTEN}
    return sorted(path.name for path in results.iterdir() if path.name not in made)


def _pages(root: Path) -> Iterable[tuple[str, str]]:
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted(_beside(root))):
        yield page.relative_to(root).as_posix(), page.read_text(encoding="utf-8")


def _beside(root: Path) -> Iterable[Path]:
    return (root / "benchmarks" / "results").glob("*.md")


def _cites(page: str, result: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(result)}(?![\w])", page) is not None
