"""Formats that are read: a sound file of each, and its reader's answer as a digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from agents import RSPARAgent
from agents.amortised.storage import document_of, load_model, save_model
from benchmarks.common.signed import FileError, write_signed
from benchmarks.common.signed_table import read_csv, signed_csv
from benchmarks.files.models import BUDGETS, MEASURED, read_result
from benchmarks.fuzz.samples import COLUMNS, Samples
from benchmarks.job.run_folder import RunFolder, RunFolderError, open_run
from benchmarks.settings.reading import load_config
from benchmarks.settings.source import ConfigError
from benchmarks.studies.engine.plan_store import PlanStore
from benchmarks.studies.engine.store import read_object
from benchmarks.studies.ladder.submission import read_submission, write_submission
from benchmarks.sweep.results_table import ResultsError, read_results
from hessian.support.files import sha256_of
from prune_gym.bench.networks import clear_networks, digest, load_networks, write_networks
from prune_gym.bench.plans import digest as plans_digest
from prune_gym.bench.plans import load_plans, write_plans
from prune_gym.saving.checkpoint import load_pruned
from prune_gym.saving.export import export_state_dict
from prune_gym.support.files import load_safetensors, save_safetensors_atomic
from prune_gym.surgery.state_dict import read_state_dict
from prune_gym.tasks.image_files import read_image


class RefusedError(ValueError):
    """A reader that leaves out what it cannot believe left something out."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: of the kind.
        write: makes a sound one in a folder.
        read: what the reader makes of a file, as text that differs where any number does.
        ours: whether this project writes such files, so that no change may pass; False for what people write.
        refusals: errors that count as a clean refusal.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], str]
    ours: bool = True
    refusals: tuple[type[Exception], ...] = (ValueError, FileNotFoundError, KeyError)


def formats(samples: Samples) -> list[Format]:
    """Every format, with readers that share one network and one task.

    Args:
        samples: what the files are of.
    """
    return [
        *_tensor_formats(samples),
        *_bench_formats(samples),
        *_run_formats(samples),
        *_study_formats(samples),
        *_foreign_formats(),
    ]


def _tensor_formats(samples: Samples) -> list[Format]:
    def agent(path: Path) -> str:
        read = RSPARAgent.load(path)
        rest = (read.history, read.num_timesteps, read.num_updates, dataclasses.asdict(read.config))
        return sha256_of(read.network.state_dict(), repr(rest), repr(read.rng.bit_generator.state))

    def analysis(path: Path) -> str:
        return sha256_of(*samples.hobs.load(path).tensors())

    def network(path: Path) -> str:
        read = load_pruned(path.with_suffix(".safetensors"), factory=samples.network)
        return sha256_of(dict(read.state_dict()), repr(read))

    def write_analysis(folder: Path) -> Path:
        samples.hobs.save(folder / "analysis.safetensors")
        return folder / "analysis.safetensors"

    return [
        Format(
            "tensors (caches, dense weights, training states)",
            lambda folder: save_safetensors_atomic(folder / "t.safetensors", samples.state(), {"about": '{"a": 0.25}'}),
            lambda path: sha256_of(*load_safetensors(path)),
        ),
        Format("analysis (H-OBS)", write_analysis, analysis),
        Format("agent (R-SPAR)", lambda folder: samples.agent.save(folder / "agent.safetensors"), agent),
        Format("pruned network: weights", samples.save_pruned, network),
        Format("pruned network: manifest", lambda folder: samples.save_pruned(folder).with_suffix(".json"), network),
        *(
            Format(
                f"state dict ({suffix})",
                lambda folder, suffix=suffix: export_state_dict(samples.network(), folder / f"s{suffix}"),  # type: ignore[misc]
                lambda path: sha256_of(read_state_dict(path)),
            )
            for suffix in (".safetensors", ".pt")
        ),
    ]


def _bench_formats(samples: Samples) -> list[Format]:
    def networks(path: Path) -> str:
        clear_networks()  # a file is read once a process
        read = load_networks(path)
        return sha256_of({name: repr(found.description) + digest(found.arrays(), {}) for name, found in read.items()})

    def amortised(path: Path) -> str:
        model = load_model(path)
        return sha256_of(model.state_dict(), document_of(model))

    return [
        Format(
            "amortised model", lambda folder: save_model(samples.amortised, folder / "model.safetensors"), amortised
        ),
        Format(
            "bench: networks and surrogates",
            lambda folder: write_networks(folder / "networks.safetensors", samples.bench_networks),
            networks,
        ),
        Format(
            "bench: measured plans (parquet)",
            lambda folder: write_plans(folder / "plans.parquet", samples.bench_plans),
            lambda path: plans_digest(load_plans(path).values()),
        ),
        Format(
            "bench: submission",
            lambda folder: write_submission(folder / "submission.json", samples.submission()),
            lambda path: repr(read_submission(path)),
            refusals=(FileError,),
        ),
    ]


def _run_formats(samples: Samples) -> list[Format]:
    def written(name: str, content: object) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            return write_signed(folder / name, content)

        return write

    def config_of_run(path: Path) -> str:
        open_run(samples.config(path.parent.parent), samples.SEED)
        return "the same run"

    def write_config(folder: Path) -> Path:
        return open_run(samples.config(folder), samples.SEED).path / "config.yaml"

    def stored(name: str, model: object) -> Callable[[Path], str]:
        return lambda path: repr(RunFolder(path.parent).read_json(name, model))  # type: ignore[arg-type]

    return [
        Format("run: config.yaml", write_config, config_of_run, refusals=(RunFolderError, ConfigError)),
        Format("run: result.json", written("result.json", samples.result()), lambda path: repr(read_result(path))),
        Format("run: measured plans", written("measured.json", samples.measured()), stored("measured.json", MEASURED)),
        Format("run: decided budgets", written("budgets.json", samples.budgets()), stored("budgets.json", BUDGETS)),
    ]


def _study_formats(samples: Samples) -> list[Format]:
    def plans(path: Path) -> str:
        store = PlanStore(path.parent.parent, samples.problem, "reader")
        sound = {plan: found for plan, found in store.measurements.items() if samples.plans.get(plan) == found}
        if len(sound) == len(store.measurements) < len(samples.plans):
            raise RefusedError(f"{path}: damaged lines are left out")
        return repr(sorted(store.measurements.items()))

    def write_table(folder: Path) -> Path:
        path = folder / "results.csv"
        path.write_text(signed_csv(samples.rows(), COLUMNS))
        return path

    return [
        Format(
            "study: a finished cell",
            lambda folder: write_signed(folder / "cell.json", samples.result(), indent=None),
            lambda path: repr(read_object(path)),
            refusals=(ConfigError,),
        ),
        Format("study: measured plans (jsonl)", samples.write_plans, plans, refusals=(RefusedError,)),
        Format(
            "tables of sweeps and studies (csv)",
            write_table,
            lambda path: repr(_some(read_csv(path, "write it again"), path)),
            refusals=(FileError,),
        ),
        Format(
            "table of a sweep (parquet)",
            lambda folder: samples.write_parquet(folder / "results.parquet"),
            lambda path: repr(read_results(path)),
            refusals=(ResultsError,),
        ),
    ]


def _some(rows: list[dict[str, str]], path: Path) -> list[dict[str, str]]:
    """A table of nothing is no answer: its readers refuse it.

    Raises:
        FileError: no rows.
    """
    if not rows:
        raise FileError(f"{path} has no rows")
    return rows


def _foreign_formats() -> list[Format]:
    def write_yaml(folder: Path) -> Path:
        from benchmarks.configs import CONFIG_DIR

        path = folder / "mine.yaml"
        path.write_bytes((CONFIG_DIR / "digits_resnet20.yaml").read_bytes())
        return path

    def write_image(suffix: str) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            pixels = (torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
            Image.fromarray(pixels.numpy()).save(folder / f"image{suffix}")
            return folder / f"image{suffix}"

        return write

    def write_foreign(folder: Path) -> Path:
        torch.save(nn.Linear(4, 3).state_dict(), folder / "foreign.pt")
        return folder / "foreign.pt"

    return [
        Format("configuration (YAML)", write_yaml, lambda path: repr(load_config(path)), False, (ConfigError,)),
        Format("image (PNG)", write_image(".png"), lambda path: sha256_of(read_image(str(path)).tobytes()), False),
        Format("image (JPEG)", write_image(".jpg"), lambda path: sha256_of(read_image(str(path)).tobytes()), False),
        Format("foreign state dict (.pt)", write_foreign, lambda path: sha256_of(read_state_dict(path)), False),
    ]
