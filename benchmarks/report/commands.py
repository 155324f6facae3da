"""The command that makes a number of a report again, and the configuration it reads."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from benchmarks.files.reading import read_text
from benchmarks.report.comparisons import Comparison
from benchmarks.report.runs import Group, Run
from benchmarks.report.sources import Ablation, Findings, Sweep
from prune_gym.saving.manifest import read_manifest

AGAIN = "results/again"
"""Folder of repeated runs: never over the results they are compared with."""


def config_of(run: Run) -> str:
    """Return the text of a run's resolved configuration; "" where it was not kept."""
    return "" if run.folder is None else read_text(run.folder / "config.yaml")


def command_of_runs(group: Group, findings: Findings) -> str:
    """Return the command that repeats runs of `prune-gym run` or `prune`; "" for rows of a sweep's table."""
    first = group.first
    if first.pruning is not None:
        return first.pruning.command
    if not config_of(first):
        return ""
    folder = "/".join(part for part in (findings.name, *first.source.split("/")[:-1]))
    return _shell(
        *("prune-gym", "run", "--config", f"{folder}/config.yaml", "--threads", first.threads),
        *_device(first.device),
        f"experiment.random_seeds={group.seeds}",
        f"experiment.save_dir={AGAIN}",
    )


def loading_code(group: Group, findings: Findings) -> list[str]:
    """Return lines of Python that load the network which the first run of a group saved; none where there is none."""
    if group.first.pruning is not None:
        return list(group.first.pruning.load)
    if group.network is None:
        return []
    try:
        manifest = read_manifest(group.network)
    except (OSError, ValueError):
        return []
    path = "/".join((findings.name, *group.first.source.split("/")[:-1], group.network.name))
    factory = "" if manifest.factory_registered else f", factory={manifest.factory}"
    return ["from prune_gym import load_pruned", f"model = load_pruned({path!r}{factory})", "logits = model(images)"]


def _device(device: str) -> Sequence[str]:
    return ("--gpu", "cpu") if device == "cpu" else ()


def commands_of_sweep(sweep: Sweep, findings: Findings) -> list[str]:
    """Return the commands that repeat a sweep, and that compare rows with their repetition."""
    folder = _place(findings, sweep.folder)
    return [
        _shell("prune-gym", "sweep", f"{folder}/sweep.yaml", f"save_dir={AGAIN}"),
        _shell("prune-gym", "validate", folder),
    ]


def config_of_ablation(ablation: Ablation) -> str:
    """Return the configuration of an ablation as YAML; "" where it was not kept."""
    return _yaml(ablation.content.get("configuration"))


def command_of_ablation() -> str:
    """Return the command that repeats an ablation from its configuration."""
    return _shell("python", "-m", "benchmarks.ablation", "--config", "ablation.yaml", f"experiment.save_dir={AGAIN}")


def config_of_agents(comparison: Comparison) -> str:
    """Return the configuration of a comparison of agents as YAML."""
    return _yaml(comparison.study.get("study"))


def command_of_comparison(comparison: Comparison) -> str:
    """Return the command that repeats a comparison of agents or methods.

    Raises:
        KeyError: the study does not say how it was made.
    """
    study = comparison.study
    threads = ("--threads", study["threads"]) if "threads" in study else ()
    if "study" in study:
        command = ("python", "-m", "benchmarks.studies.agents", "--config", "study.yaml")
        return _shell(*command, *threads, f"save_dir={AGAIN}")
    rows = comparison.cells or comparison.rows
    seeds = sorted({seed for row in rows for seed in row.get("seeds", [row.get("seed")])})
    budget: Mapping[str, Any] = study["budget"]
    given = {key: value for key, value in budget.items() if key != "timed_passes" and value is not None}
    options = {f"--{key.replace('_', '-')}": value for key, value in given.items()}
    return _shell(
        *("python", "-m", "benchmarks.studies.methods", "--task", study["task"], "--out", AGAIN),
        *("--methods", *dict.fromkeys(row["method"] for row in rows)),
        *("--targets", *sorted({row["target"] for row in rows})),
        *("--seeds", *seeds),
        *(part for option in options.items() for part in option),
        *threads,
    )


def _place(findings: Findings, folder: str) -> str:
    return findings.name if folder == "." else f"{findings.name}/{folder}"


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False) if isinstance(content, Mapping) else ""


def _shell(*parts: object) -> str:
    return shlex.join(str(part) for part in parts)
