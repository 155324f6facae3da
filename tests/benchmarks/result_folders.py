"""Small hand-made folders of results, as the commands write them."""

import csv
import io
import json

from benchmarks.common.signed import write_signed
from benchmarks.common.signed_table import signed_csv
from benchmarks.sweep.results_table import result_files
from hessian.support.files import CHECKSUM_KEY, write_atomic

LAYERS = {"conv1": 0.5, "layer1.0.conv1": 0.75}
VERSIONS = {"python": "3.11.7", "torch": "2.6.0", "prune-gym": "0.1.0"}


def network(accuracy, flops, parameters, latency):
    return {
        "accuracy": accuracy,
        "flops": flops,
        "parameters": parameters,
        "bytes_on_disk": 4 * parameters,
        "latency_ms": latency,
        "latency_std_ms": 0.1,
        "throughput_imgs_per_sec": 1e3 / latency,
    }


def result(method="hobs-rspar", seed=1, target=0.75, task="digits", one_shot=0.9, final=0.95, **changes):
    return {
        "dense": network(0.97, 20_000_000, 270_000, 3.0),
        "one_shot": network(one_shot, 5_000_000, 70_000, 1.5),
        "reconstructed": network((one_shot + final) / 2, 5_000_000, 70_000, 1.5),
        "final": network(final, 5_000_000, 70_000, 1.5),
        "flops_reduction": 0.7512,
        "test_images": 400,
        "target_flops_reduction": target,
        "budgets": LAYERS,
        "search": {"measured_evaluations": 101, "reward_accuracy": 0.95, "reward_soft_accuracy": 0.93},
        "experiment": "by hand",
        "task": task,
        "method": method,
        "seed": seed,
        "device": "cpu",
        "num_threads": 1,
        "machine": "Abacus 3000, 2 cores, Linux x86_64",
        "versions": VERSIONS,
        "seconds": {"load task": 1.0, "H-OBS": 3.0, f"search: {method}": 30.0, "fine-tune with KD": 20.0},
        **changes,
    }


def write_run(folder, config="model: {name: resnet20}\n", **options):
    return write_result(folder, result(**options), config)


def write_result(folder, content, config="model: {name: resnet20}\n"):
    place = folder / f"seed_{content['seed']}"
    place.mkdir(parents=True, exist_ok=True)
    write_signed(place / "result.json", content)
    (place / "config.yaml").write_text(config)
    return place


def write_runs(folder):
    """R-SPAR with five seeds and uniform budgets with the same, at one target; R-SPAR once at another."""
    for seed in range(1, 6):
        write_run(folder / "rspar", seed=seed, one_shot=0.90 + 0.002 * seed, final=0.95 + 0.001 * seed)
        write_run(folder / "uniform", seed=seed, method="hobs-uniform", one_shot=0.80 + 0.003 * seed, final=0.93)
    write_run(folder / "deep", seed=1, target=0.9, flops_reduction=0.9013)
    return folder


def write_sweep(folder, results=None, *, cells=False):
    folder.mkdir(parents=True, exist_ok=True)
    results = results or [result(seed=seed, final=0.95 + 0.001 * seed) for seed in (1, 2)]
    for name, content in result_files(results).items():
        write_atomic(folder / name, content)
    (folder / "results.parquet").unlink(missing_ok=True)
    grid = {"name": "a grid", "methods": ["hobs-rspar"], "tasks": ["digits"], "targets": [0.75], "seeds": [1, 2, 3]}
    (folder / "sweep.yaml").write_text(json.dumps(grid))
    (folder / "failures").mkdir(exist_ok=True)
    failure = {"cell": "digits hobs-rspar 0.75 seed 3", "error": "ValueError: too <deep>", "trace": None, "attempts": 1}
    write_signed(folder / "failures" / "digits-hobs-rspar-0.75-seed_3.json", failure)
    if cells:
        for content in results:
            write_result(folder / "cells" / "digits-hobs-rspar-0.75", content)
    return folder


def ablation_rows():
    from benchmarks.ablation.tables import summarise

    runs = {
        "full": [result(seed=seed, one_shot=0.9 + 0.002 * seed, final=0.95 + 0.001 * seed) for seed in range(1, 6)],
        "no_rl": [result(seed=seed, one_shot=0.8 + 0.003 * seed, final=0.94 - 0.001 * seed) for seed in range(1, 6)],
    }
    return summarise(runs)


def write_ablation(folder, rows=None):
    place = folder / "ablation"
    place.mkdir(parents=True, exist_ok=True)
    content = {
        "task": "digits",
        "target_flops_reduction": 0.75,
        "configuration": {"model": {"name": "resnet20"}, "experiment": {"name": "x"}},
        "rows": rows or ablation_rows(),
        "versions": VERSIONS,
    }
    write_signed(place / "ablation.json", content)
    write_run(place / "no_rl", final=0.1234)  # belongs to the ablation, not to the results
    return folder


def agent_cell(agent, seed, targets=(0.75,), score=0.9):
    plan = {
        "kept": [1, 2],
        "accuracy": score,
        "soft_accuracy": score,
        "flops_reduction": 0.75,
        "loss": 0.1,
        "seconds": 1.0,
    }
    best = {f"{x:g}": {**plan, "flops_reduction": x, "test_accuracy": score - x / 100} for x in targets}
    area = dict.fromkeys(("accuracy", "soft_accuracy", "test_accuracy"), score)
    return {
        "task": "digits",
        "agent": agent,
        "targets": list(targets),
        "seed": seed,
        "evaluations": [
            {"run": 0, "index": index, **plan, "soft_accuracy": score - 0.1 / index} for index in (1, 2, 3)
        ],
        "best": best,
        "hypervolume": area if len(targets) > 1 else None,
        "dense": {"accuracy": 0.97, "soft_accuracy": 0.96},
        "seconds": {"own": 2.0, "evaluations": 3.0, "overhead": 0.6},
    }


def write_agents(folder):
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    study = {"name": "agents by hand", "reference": "rspar", "tasks": ["digits"], "targets": [0.75], "seeds": [0, 1]}
    write_signed(folder / "study.json", {"study": study, "agents": {}, "versions": VERSIONS, "threads": 1})
    for seed in (0, 1):
        for agent, score in (("rspar", 0.95), ("random", 0.85)):
            for targets in ((0.75,), (0.5, 0.75)):
                cell = agent_cell(agent, seed, targets, score + 0.01 * seed)
                name = f"digits-{len(targets)}-{agent}-seed{seed}.json"
                write_signed(folder / "cells" / name, cell)
    return folder


def method_cell(method, seed, target, accuracy):
    numbers = {"flops": 5e6, "flops_reduction": target + 0.001, "parameters": 7e4, "speedup": 2.5}
    spent = {"evaluations": 20, "images": 40_000, "backward_passes": 1500, "seconds": 12.0}
    stages = {"raw": 0.1, "bn": 0.3, "refit": accuracy - 0.05, "reconstructed": accuracy - 0.02, "finetuned": accuracy}
    named = {"method": method, "seed": seed, "target": target, "accuracy": stages, "dense_accuracy": 0.97}
    budgets = {"removed": {"conv1": 8 + 8 * seed}, "channels": {"conv1": 32, "conv2": 64}}
    return {**named, **numbers, **spent, **budgets}


def write_methods(folder):
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    budget = {"images": 10_000, "own_training": 2_000, "evaluations": 20, "finetune_epochs": 2, "finetune_lr": 0.02}
    content = {"task": "digits", "budget": {**budget, "timed_passes": 30}, "versions": VERSIONS, "threads": 1}
    write_signed(folder / "study.json", content)
    for seed in (0, 1):
        for target in (0.5, 0.75):
            for method, accuracy in (("magnitude", 0.8), ("hobs-rspar", 0.9)):
                cell = method_cell(method, seed, target, accuracy + 0.01 * seed - target / 10)
                write_signed(folder / "cells" / f"{method}-{target:g}-seed{seed}.json", cell)
    broken = {"method": "hrank", "target": 0.5, "seed": 0, "error": "RuntimeError: no <luck>"}
    write_signed(folder / "cells" / "hrank-0.5-seed0.json", broken)
    return folder


def signed_again(text):
    """The table with checksums that fit, as whoever changes it on purpose would write it."""
    rows = [
        {key: value for key, value in row.items() if key != CHECKSUM_KEY} for row in csv.DictReader(io.StringIO(text))
    ]
    return signed_csv(rows, tuple(rows[0]))
