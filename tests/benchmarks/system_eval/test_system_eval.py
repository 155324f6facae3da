"""A checkpoint in, accuracy and every measurement out; what is wrong is named before anything is measured."""

import json

import pytest
import torch

from benchmarks.common.errors import BAD_INPUT
from benchmarks.metrics import SystemMetrics, conditions
from benchmarks.metrics.comparison import compare_networks
from benchmarks.metrics.conditions import RunConditions
from benchmarks.metrics.energy import Energy, RaplCounter, energy_of
from benchmarks.system_eval import command as system_eval
from benchmarks.system_eval import evaluation
from prune_gym.saving.checkpoint import save_pruned
from prune_gym.saving.export import export_state_dict
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.training import evaluate_model
from tests.benchmarks import tiny_task

QUICK = ("--iterations", "2", "--batch-sizes", "1", "4", "--gpu", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def task():
    tiny_task.register()
    return tiny_task.build()


@pytest.fixture(scope="module")
def pruned(task):
    pruner = PhysicalPruner(task.model, task.example_input)
    plan = {group.name: list(range(4)) for group in pruner.groups}
    return pruner.prune(plan, refit="sequential", calibration=task.calibration)


@pytest.fixture
def config(tmp_path, task):
    path = tmp_path / "config.yaml"
    path.write_text(tiny_task.CONFIG.format(save_dir=tmp_path / "runs"))
    return str(path)


@pytest.fixture(params=["pruned.safetensors", "pruned.pt", "plain.safetensors"])
def checkpoint(request, tmp_path, pruned):
    path = tmp_path / "checkpoint" / request.param
    if request.param == "pruned.safetensors":
        return save_pruned(path, pruned, factory=tiny_task.network)
    return export_state_dict(pruned, path)


def test_a_checkpoint_of_either_kind_is_evaluated(config, checkpoint, task, pruned, capsys):
    assert system_eval.main(["--config", config, "--checkpoint", str(checkpoint), *QUICK]) == 0
    folder = checkpoint.parent / "system_eval"
    report = json.loads((folder / "system_eval.json").read_text())
    shape = (1, *task.example_input.shape[1:])
    for name, network in (("dense", task.model), ("pruned", pruned)):
        facts = report["networks"][name]
        assert facts["accuracy"] == pytest.approx(evaluate_model(network, task.test).accuracy)
        assert facts["parameters"] == SystemMetrics.count_parameters(network)
        assert facts["flops"] == 2 * facts["macs"] == SystemMetrics.count_flops(network, shape)
        assert facts["joules_per_input"] is None or facts["joules_per_input"] > 0
    assert [row["batch_size"] for row in report["batches"]] == [1, 4]
    for row in report["batches"]:
        times = {name: row["networks"][name]["p50_ms"] for name in ("dense", "pruned")}
        assert row["speedup"] == pytest.approx(times["dense"] / times["pruned"])
        assert row["share_of_ideal"] == pytest.approx(row["speedup"] / report["ideal_speedup"])
        assert row["networks"]["pruned"]["throughput_imgs_per_sec"] == pytest.approx(
            1e3 * row["batch_size"] / times["pruned"]
        )
    assert report["layers"]["flops_removed"] == pytest.approx(report["flops_reduction"])
    for plot in ("latency.png", "throughput.png", "accuracy_speedup.png"):
        assert (folder / plot).read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert "speed-up" in text
    assert "energy an input" in text


def test_a_batch_that_does_not_fit_is_reported_and_the_others_are_measured(
    config, tmp_path, pruned, monkeypatch, capsys
):
    honest = torch.nn.Conv2d.forward

    def small_memory(self, inputs):
        if inputs.shape[0] > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
        return honest(self, inputs)

    path = export_state_dict(pruned, tmp_path / "net.pt")
    monkeypatch.setattr("benchmarks.system_eval.report.evaluate_model", lambda *_: type("R", (), {"accuracy": 0.5})())
    monkeypatch.setattr(torch.nn.Conv2d, "forward", small_memory)
    arguments = ["--config", config, "--checkpoint", str(path), *QUICK, "--out", str(tmp_path / "out")]
    arguments[arguments.index("4")] = "128"
    assert system_eval.main(arguments) == 0
    fits, too_large = json.loads((tmp_path / "out" / "system_eval.json").read_text())["batches"]
    assert fits["speedup"] > 0
    assert too_large["speedup"] is None
    assert "a batch of 128 inputs" in too_large["problem"]
    assert "try a batch of 64 or less" in too_large["problem"]
    assert "does not fit into memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no checkpoint"), (b"", "damaged or not a plain state dict"), ({"w": 1}, "not tensors by name")],
)
def test_bad_checkpoints_are_named(config, tmp_path, capsys, content, message):
    path = tmp_path / "net.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert system_eval.main(["--config", config, "--checkpoint", str(path), *QUICK]) == BAD_INPUT
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "system_eval").exists()


def test_a_checkpoint_of_another_network_is_refused(config, tmp_path, capsys):
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "net.pt")
    assert system_eval.main(["--config", config, "--checkpoint", str(tmp_path / "net.pt"), *QUICK]) == 2
    assert "the checkpoint is of another network" in capsys.readouterr().err


def test_an_unwritable_folder_is_found_before_anything_is_measured(config, tmp_path, pruned, monkeypatch, capsys):
    path = export_state_dict(pruned, tmp_path / "plain.safetensors")
    monkeypatch.setattr(evaluation, "evaluate_system", lambda *_: pytest.fail("it was measured"))
    assert system_eval.main(["--config", config, "--checkpoint", str(path), "--out", "/dev/null/out", *QUICK]) == 2
    assert "set --out to a folder you can write to" in " ".join(capsys.readouterr().err.split())


def test_a_missing_configuration_and_zero_iterations_are_refused(tmp_path, config, capsys):
    assert system_eval.main(["--config", str(tmp_path / "no.yaml"), "--checkpoint", "x"]) == BAD_INPUT
    with pytest.raises(SystemExit):
        system_eval.main(["--config", config, "--checkpoint", "x", "--iterations", "0"])
    assert "must be at least 1, got 0" in capsys.readouterr().err


NET = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())


def test_networks_take_turns_and_each_gets_its_faster_format(monkeypatch):
    order = []

    class Spy(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.conv = name, torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            order.append(self.name)
            return self.conv(x)

    (row,) = compare_networks({"a": Spy("a"), "b": Spy("b")}, (3, 8, 8), (2,), num_iterations=3, num_warmup=0)
    assert order[-6:] == ["a", "b"] * 3
    assert row.speedup("b", "a") == pytest.approx(row.timings["a"].p50_ms / row.timings["b"].p50_ms)
    (row,) = compare_networks({"a": NET}, (3, 8, 8), (1,), num_iterations=1, faster_format=True)
    assert set(row.channels_last) == {"a"}


@pytest.mark.parametrize("options", [{"batch_sizes": ()}, {"batch_sizes": (0,)}, {"num_iterations": 0}])
def test_comparisons_of_nothing_are_refused(options):
    with pytest.raises(ValueError, match="at least"):
        compare_networks({"a": NET}, (3, 8, 8), **{"batch_sizes": (1,), **options})


def test_conditions_apply_to_a_copy_and_threads_come_back():
    seen = {}

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            seen["format"] = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            seen["dtype"], seen["threads"] = x.dtype, torch.get_num_threads()
            return self.conv(x)

    model, before = Spy(), torch.get_num_threads()
    timing = SystemMetrics.time(model, (2, 3, 8, 8), 2, dtype=torch.bfloat16, channels_last=True, num_threads=2)
    assert seen == {"format": True, "dtype": torch.bfloat16, "threads": 2}
    assert timing.num_threads == 2
    assert model.conv.weight.dtype is torch.float32
    assert torch.get_num_threads() == before
    result = SystemMetrics.measure_all(
        model, 2, (3, 8, 8), latency_iterations=1, throughput_iterations=1, energy_seconds=0.01, dtype=torch.float64
    )
    assert result["dtype"] == "float64"
    assert result["macs"] * 2 == result["flops"]


@pytest.mark.parametrize(
    ("options", "error"),
    [({"dtype": "bf16"}, TypeError), ({"dtype": torch.int8}, ValueError), ({"num_threads": 0}, ValueError)],
)
def test_bad_conditions_are_refused(options, error):
    with pytest.raises(error, match="must be"):
        RunConditions(**options)


def test_compiled_models_are_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(conditions.torch, "compile", lambda model: compiled.append(model) or model)
    SystemMetrics.measure_latency(NET, (1, 3, 8, 8), 1, compiled=True)
    assert compiled == [NET]


def test_rapl_counts_microjoules_and_survives_a_wrap(tmp_path):
    package = tmp_path / "intel-rapl:0"
    (package / "intel-rapl:0:0").mkdir(parents=True)
    (package / "max_energy_range_uj").write_text("10000000")
    (package / "energy_uj").write_text("9000000")
    counter = RaplCounter(tmp_path)
    (package / "energy_uj").write_text("500000")
    assert counter.joules() == pytest.approx(1.5)
    with pytest.raises(FileNotFoundError):
        RaplCounter(tmp_path / "none")


def test_energy_is_unavailable_not_zero_without_a_counter(monkeypatch):
    monkeypatch.setattr("benchmarks.metrics.energy.energy_counter", lambda device: None)
    assert energy_of(lambda: None, torch.device("cpu")) == Energy(None, "unavailable")


def test_energy_is_the_counters_over_the_runs(monkeypatch):
    class Fake:
        source = "rapl"

        def start(self):
            runs.clear()

        def joules(self):
            return 3.0 * len(runs)

    runs = []
    monkeypatch.setattr("benchmarks.metrics.energy.energy_counter", lambda device: Fake())
    energy = energy_of(lambda: runs.append(1), torch.device("cpu"), seconds=0.01)
    assert energy == Energy(3.0, "rapl")
    with pytest.raises(ValueError, match="seconds must be positive"):
        energy_of(lambda: None, torch.device("cpu"), seconds=0)
