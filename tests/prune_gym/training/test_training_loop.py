"""However the steps are carried out, the training is the same: in parts, after a resume, over processes."""

import json
from dataclasses import asdict
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hessian.support.distributed import SingleProcess
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import TensorSplit
from prune_gym.support.device import autocast_dtype
from prune_gym.support.files import load_safetensors, save_safetensors_atomic
from prune_gym.training import Loop, fine_tune, fitting, train_dense
from prune_gym.training.checkpoint import TrainingState
from prune_gym.training.one_cycle import one_cycle


def make_split(count=30):
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 2, 6, 6, generator=generator)
    return TensorSplit(images, (images.mean(dim=(1, 2, 3)) > 0).long())


def make_model(norm=True, dropout=0.3):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        *([nn.BatchNorm2d(6)] if norm else []),
        *(nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(6 * 36, 2)),
    )


def train(model, loop=None, epochs=4, **options):
    settings = {"lr": 0.05, "batch_size": 8, "seed": 3, "augment": Augmentation(max_shift=1), **options}
    return train_dense(model, make_split(), epochs=epochs, loop=loop, **settings)


class Stopped(Exception):
    pass


def stop_after(steps):
    def progress(description, done, total):
        if done == steps:
            raise Stopped

    return progress


@pytest.mark.parametrize("stop", [5, 8, 11])
def test_a_resumed_training_ends_bit_equal_to_one_that_never_stopped(tmp_path, device, stop):
    whole, halted = make_model().to(device), make_model().to(device)
    expected = train(whole)
    loop = Loop(checkpoint=tmp_path / "state.safetensors")
    with pytest.raises(Stopped):
        train(halted, loop, progress=stop_after(stop))
    resumed = make_model().to(device)
    history = train(resumed, loop)
    assert history == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_finished_training_is_not_repeated(tmp_path):
    loop, model = Loop(checkpoint=tmp_path / "state.safetensors"), make_model()
    history = train(model, loop)
    again = make_model()
    assert train(again, loop, progress=lambda *_: pytest.fail("trained again")) == history
    assert torch.equal(again[0].weight, model[0].weight)


def test_fine_tuning_resumes_too(tmp_path):
    teacher, results = make_model().eval(), []
    for interrupted in (False, True):
        student = make_model()
        options = {"epochs": 3, "batch_size": 8, "schedule": "cosine", "label_smoothing": 0.1, "seed": 2}
        if interrupted:
            loop = Loop(checkpoint=tmp_path / "state.safetensors")
            with pytest.raises(Stopped):
                fine_tune(student, teacher, make_split(), loop=loop, progress=stop_after(6), **options)
            student = make_model()
            options["loop"] = loop
        fine_tune(student, teacher, make_split(), **options)
        results.append(student.state_dict())
    for name, tensor in results[0].items():
        assert torch.equal(results[1][name], tensor), name


@pytest.mark.parametrize("change", [{"seed": 4}, {"lr": 0.01}, {"epochs": 5}, {"label_smoothing": 0.1}])
def test_the_state_of_another_training_is_refused_and_changes_nothing(tmp_path, change):
    loop = Loop(checkpoint=tmp_path / "state.safetensors")
    train(make_model(), loop)
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="state of another training"):
        train(model, loop, **change)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_damaged_state_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    train(make_model(), Loop(checkpoint=path))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated"):
        train(make_model(), Loop(checkpoint=path))


def state_of(model, scaled=False):
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    optimizer = fitting.Schedule(1, 0.1, 8, 0.0, 0.9, 0.0).optimizer(model)
    return TrainingState(model, optimizer, scaler, torch.Generator().manual_seed(0), SingleProcess(), {})


def test_a_state_from_a_cpu_is_taken_over_on_a_gpu(tmp_path, monkeypatch, caplog):
    path = tmp_path / "state.safetensors"
    saved, resumed = make_model(), make_model()
    state_of(saved).save(path, [{"epoch": 1}])
    nn.init.zeros_(resumed[0].weight)
    # Without a GPU: what the state does with its own device, up to the tensors themselves.
    state = state_of(resumed, scaled=True)
    monkeypatch.setattr(state, "_device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: pytest.fail("there is no state of a GPU to restore"))
    assert state.resume(path) == [{"epoch": 1}]
    assert torch.equal(resumed[0].weight, saved[0].weight)
    assert "written on a cpu; the training goes on on a cuda" in caplog.text


def test_a_state_from_a_gpu_is_taken_over_on_a_cpu(tmp_path, monkeypatch, caplog):
    path, loop = tmp_path / "state.safetensors", Loop(checkpoint=tmp_path / "state.safetensors")
    expected = train(make_model())
    with pytest.raises(Stopped):
        train(make_model(), loop, progress=stop_after(9))
    tensors, metadata = load_safetensors(path)
    assert metadata["device"] == "cpu"
    with_gpu = torch.cat([tensors["random.global"], torch.ones(1, 16, dtype=torch.int32)], dim=1)
    scale = json.dumps(torch.amp.GradScaler("cpu", enabled=True).state_dict())
    tensors, metadata = tensors | {"random.global": with_gpu}, metadata | {"device": "cuda", "scaler": scale}
    save_safetensors_atomic(path, tensors, metadata)
    assert train(make_model(), loop) == expected
    assert "written on a cuda; the training goes on on a cpu" in caplog.text


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_gradients_of_parts_add_up_to_the_batchs(parts):
    whole, split = make_model(norm=False, dropout=0.0), make_model(norm=False, dropout=0.0)
    expected = train(whole)
    history = train(split, Loop(accumulation=parts))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)
    assert [record.loss for record in history] == pytest.approx([record.loss for record in expected], rel=1e-4)


def test_parts_pass_through_one_after_the_other():
    sizes = []
    model = make_model()
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    train(model, Loop(accumulation=4), epochs=1)
    assert max(sizes) == 2


def test_mixed_precision_computes_in_16_bits_and_keeps_weights_and_loss_in_32(device):
    if autocast_dtype(device) is None:
        pytest.skip("no 16-bit arithmetic here")
    seen = set()
    model = make_model().to(device)
    model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    history = train(model, Loop(mixed_precision=True))
    assert seen == {autocast_dtype(device)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = train(make_model().to(device))
    assert history[-1].loss == pytest.approx(exact[-1].loss, rel=0.1)


def test_the_teacher_is_heard_in_mixed_precision():
    student = make_model()
    history = fine_tune(student, make_model(), make_split(), epochs=2, batch_size=8, loop=Loop(mixed_precision=True))
    assert all(torch.isfinite(torch.tensor(record.loss)) for record in history)


def test_label_smoothing_changes_the_label_loss_as_cross_entropy_does():
    model, split = make_model(dropout=0.0), make_split()
    record = fine_tune(model, None, split, epochs=1, lr=1e-12, batch_size=30, label_smoothing=0.2)[0]
    fresh = make_model(dropout=0.0).train()
    expected = nn.functional.cross_entropy(fresh(split.images), split.labels, label_smoothing=0.2)
    assert record.loss == pytest.approx(float(expected), rel=1e-5)


def test_a_cosine_schedule_starts_at_the_peak_and_a_cycle_below_it(monkeypatch):
    for schedule, starts_at_peak in (("cosine", True), ("one_cycle", False)):
        rates = []
        monkeypatch.setattr(
            fitting,
            "one_cycle",
            lambda step, total, warmup, rates=rates: rates.append(one_cycle(step, total, warmup)) or rates[-1],
        )
        fine_tune(make_model(), None, make_split(100), epochs=3, batch_size=8, schedule=schedule)
        assert (rates[0] == 1.0) is starts_at_peak
        assert max(rates) > 0.95
        assert rates[-1] < 0.05


@pytest.mark.parametrize("options", [{"schedule": "linear"}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="schedule is one of 'one_cycle', 'cosine' and label_smoothing"):
        fine_tune(make_model(), None, make_split(), epochs=1, **options)


@pytest.mark.parametrize("accumulation", [0, -1, 1.5, True])
def test_bad_accumulations_are_refused(accumulation):
    with pytest.raises(ValueError, match="accumulation is a whole number"):
        Loop(accumulation=accumulation)


PROCESSES = 2


def _worker(rank, folder):
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/rendezvous", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=patience)
    try:
        model = make_model(norm=False, dropout=0.0)
        with torch.no_grad():
            model[0].weight.add_(rank)  # the first process's weights count
        history = train(model, Loop(checkpoint=f"{folder}/state.safetensors"))
        torch.save(model.state_dict(), f"{folder}/model{rank}.pt")
        with open(f"{folder}/history{rank}.json", "w") as file:
            json.dump([asdict(record) for record in history], file)
        again = make_model(norm=False, dropout=0.0)
        train(again, Loop(checkpoint=f"{folder}/state.safetensors"))
        assert torch.equal(again[0].weight, model[0].weight)
    finally:
        dist.destroy_process_group()


def test_two_processes_train_what_one_trains(tmp_path):
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=PROCESSES)
    alone = make_model(norm=False, dropout=0.0)
    expected = train(alone)
    for rank in range(PROCESSES):
        state = torch.load(tmp_path / f"model{rank}.pt", weights_only=True)
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-4)
        history = json.loads((tmp_path / f"history{rank}.json").read_text())
        assert [row["loss"] for row in history] == pytest.approx([record.loss for record in expected], rel=1e-4)
        assert [row["accuracy"] for row in history] == [record.accuracy for record in expected]
