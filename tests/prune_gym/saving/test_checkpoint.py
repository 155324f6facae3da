"""What is saved comes back bit for bit in a fresh process, and what was damaged is refused."""

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from prune_gym.saving.checkpoint import load_pruned, save_pruned
from prune_gym.saving.manifest import read_manifest
from prune_gym.support.files import sha256_of
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import MODEL_FACTORIES, register_model, resnet20
from tests.prune_gym.surgery_networks import CASES, LayerScale

KWARGS = {"widths": (4, 6, 8), "num_classes": 5}
ROOT = Path(__file__).resolve().parents[3]


def small_resnet(seed=0):
    torch.manual_seed(seed)
    return resnet20(**KWARGS)


def prune(model, example_input, fraction=0.5):
    pruner = PhysicalPruner(model, example_input)
    plan = {group.name: range(int(group.size * fraction)) for group in pruner.groups}
    return pruner.prune(plan).eval()


@pytest.fixture(scope="module")
def pruned():
    return prune(small_resnet(), images())


def images(seed=1):
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def saved(tmp_path, pruned):
    return save_pruned(
        tmp_path / "pruned.safetensors",
        pruned,
        factory="resnet20",
        factory_kwargs=KWARGS,
        kept={"conv1": [2, 3]},
        metrics={"accuracy": 0.5, "per_seed": (1, 2)},
    )


def rewrite(path, **changes):
    """Change a manifest and sign it again, as a file of another origin would be."""
    manifest = path.with_suffix(".json")
    content = json.loads(manifest.read_text()) | changes
    header = ("format", "format_version", "manifest_sha256")
    content["manifest_sha256"] = sha256_of({key: value for key, value in content.items() if key not in header})
    manifest.write_text(json.dumps(content))


# --- round trip ---------------------------------------------------------------------------------------------------


def test_round_trip_is_bit_equal(saved, pruned):
    loaded = load_pruned(saved)
    assert not loaded.training
    assert loaded.state_dict().keys() == pruned.state_dict().keys()
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
        assert loaded.state_dict()[name].dtype == tensor.dtype
    with torch.no_grad():
        assert torch.equal(loaded(images()), pruned(images()))


def test_a_fresh_process_gets_the_same_logits_without_torch_pruning_or_pickle(saved, pruned):
    script = """
import hashlib, pickle, sys, torch
def refuse(*args, **kwargs):
    raise AssertionError("unpickled something")
pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse
from prune_gym.saving.checkpoint import load_pruned
model = load_pruned(sys.argv[1])
images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    logits = model(images)
assert "torch_pruning" not in sys.modules
print(hashlib.sha256(logits.numpy().tobytes()).hexdigest())
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(saved)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        expected = hashlib.sha256(pruned(images()).numpy().tobytes()).hexdigest()
    assert result.stdout.strip() == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_coupling_round_trips(case, tmp_path):
    model = PhysicalPruner(case.model(), case.inputs()).prune(case.plan)
    loaded = load_pruned(save_pruned(tmp_path / "net", model, factory=case.build), factory=case.build)
    with torch.no_grad():
        assert torch.equal(loaded(case.inputs()), model(case.inputs()))


def test_bare_parameters_and_layer_norms_round_trip(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(2, 2, 4, 4)
    model = prune(LayerScale(), inputs)
    loaded = load_pruned(save_pruned(tmp_path / "net", model, factory=LayerScale), factory=LayerScale)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_number_format_is_kept(tmp_path, pruned, dtype):
    import copy

    model = copy.deepcopy(pruned).to(dtype)
    loaded = load_pruned(save_pruned(tmp_path / "net", model, factory="resnet20", factory_kwargs=KWARGS))
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    with torch.no_grad():
        assert torch.equal(loaded(images().to(dtype)), model(images().to(dtype)))


def test_a_loaded_network_can_be_trained_and_saved_again(saved, tmp_path):
    model = load_pruned(saved).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    again = load_pruned(save_pruned(tmp_path / "again", model, factory="resnet20", factory_kwargs=KWARGS))
    with torch.no_grad():
        assert torch.equal(again(images()), model.eval()(images()))


def test_tied_parameters_stay_tied(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)
            self.a, self.b = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 1)
            self.c = nn.Conv2d(3, 3, 1)
            self.c.weight = self.b.weight

        def forward(self, x):
            return self.c(self.b(self.a(self.conv(x))))

    model = PhysicalPruner(Tied(), torch.randn(1, 1, 2, 2)).prune({"conv": [1]})
    loaded = load_pruned(save_pruned(tmp_path / "net", model, factory=Tied), factory=Tied)
    assert loaded.c.weight is loaded.b.weight


def test_loading_and_saving_draw_no_random_numbers(saved, tmp_path, pruned):
    state = torch.get_rng_state()
    load_pruned(saved)
    save_pruned(tmp_path / "other", pruned, factory="resnet20", factory_kwargs=KWARGS)
    assert torch.equal(torch.get_rng_state(), state)


# --- the files ----------------------------------------------------------------------------------------------------


def test_the_weights_file_is_the_plain_state_dict(saved, pruned):
    state = safetensors.torch.load_file(saved)
    assert state.keys() == pruned.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in pruned.state_dict().items())


def test_the_manifest_tells_what_a_reader_wants_to_know(saved):
    content = json.loads(saved.with_suffix(".json").read_text())
    assert content["format_version"] == 1
    assert content["factory"] == "resnet20"
    assert content["factory_kwargs"] == {"widths": [4, 6, 8], "num_classes": 5}
    assert content["kept"] == {"conv1": [2, 3]}
    assert content["metrics"] == {"accuracy": 0.5, "per_seed": [1, 2]}
    assert content["modules"]["conv1"]["attributes"] == {"in_channels": 1, "out_channels": 2, "groups": 1}
    assert content["modules"]["conv1"]["shapes"] == {"weight": [2, 1, 3, 3]}
    assert content["modules"]["bn1"]["attributes"] == {"num_features": 2}
    assert content["weights_sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert content["versions"]["torch"]
    assert read_manifest(saved).metrics["accuracy"] == 0.5


@pytest.mark.parametrize("name", ["net.v2.safetensors", "net.v2.json", "net.v2"])
def test_both_files_and_the_stem_name_the_same_network(tmp_path, pruned, name):
    path = save_pruned(tmp_path / "runs" / name, pruned, factory="resnet20", factory_kwargs=KWARGS)
    assert sorted(file.name for file in (tmp_path / "runs").iterdir()) == ["net.v2.json", "net.v2.safetensors"]
    assert path.name == "net.v2.safetensors"
    load_pruned(str(tmp_path / "runs" / name))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"factory": "resnet21"}, KeyError, "did you mean 'resnet20'"),
        ({"factory_kwargs": {"widths": {1, 2}}}, TypeError, "factory_kwargs must be JSON-able"),
        ({"metrics": {"loss": float("nan")}}, ValueError, "metrics must not hold NaN"),
        ({"metrics": {"model": nn.ReLU()}}, TypeError, "metrics must be JSON-able"),
        ({"factory_kwargs": {"widths": (2, 6, 8), "num_classes": 5}}, ValueError, r"does not fit.*is \[2.*\] dense"),
        ({"factory": "resnet56"}, ValueError, "does not fit .*'layer1.3.conv1' is not in the checkpoint"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(saved, pruned, options, error, message):
    # The head is never cut, so a factory of narrower stages cannot have been the dense network.
    wide = prune(small_resnet(), images(), fraction=0.25)
    before = saved.read_bytes(), saved.with_suffix(".json").read_bytes()
    with pytest.raises(error, match=message):
        save_pruned(saved, wide, **({"factory": "resnet20", "factory_kwargs": KWARGS} | options))
    assert (saved.read_bytes(), saved.with_suffix(".json").read_bytes()) == before


# --- damage -------------------------------------------------------------------------------------------------------


def test_missing_files_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest .*nowhere\.json"):
        load_pruned(tmp_path / "nowhere")
    saved.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"pruned\.safetensors is missing"):
        load_pruned(saved)


def test_truncated_weights_are_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"pruned\.safetensors is truncated: .* bytes instead of"):
        load_pruned(saved)


def test_changed_weights_are_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ValueError, match="does not match the checksum in its manifest"):
        load_pruned(saved)


def test_a_truncated_manifest_is_refused(saved):
    manifest = saved.with_suffix(".json")
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(ValueError, match=r"pruned\.json is truncated or not JSON"):
        load_pruned(saved)


def test_a_changed_manifest_is_refused(saved):
    manifest = saved.with_suffix(".json")
    manifest.write_text(manifest.read_text().replace('"resnet20"', '"resnet56"'))
    with pytest.raises(ValueError, match=r"pruned\.json does not match its checksum"):
        load_pruned(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "something else"}', "null"])
def test_other_json_files_are_refused(saved, content):
    saved.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError, match="is not the manifest of a pruned network"):
        load_pruned(saved)


def test_another_format_version_is_refused(saved):
    rewrite(saved, format_version=99)
    with pytest.raises(ValueError, match="format version 99, this version of prune-gym reads 1"):
        load_pruned(saved)


def test_a_pickle_in_disguise_is_refused(saved):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    payload = pickle.dumps(Bomb())
    saved.write_bytes(payload)
    rewrite(saved, weights_sha256=hashlib.sha256(payload).hexdigest(), weights_bytes=len(payload))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_pruned(saved)


# --- factories ----------------------------------------------------------------------------------------------------


def test_an_unregistered_factory_has_to_be_passed(saved, pruned, tmp_path):
    rewrite(saved, factory="my_net")
    with pytest.raises(KeyError, match=r"'my_net' of this checkpoint is not registered.*load_pruned\(path, factory="):
        load_pruned(saved)
    assert torch.equal(load_pruned(saved, factory=resnet20).conv1.weight, pruned.conv1.weight)
    path = save_pruned(tmp_path / "callable", pruned, factory=resnet20, factory_kwargs=KWARGS)
    with pytest.raises(ValueError, match=r"built by 'resnet20', which is not stored.*load_pruned\(path, factory="):
        load_pruned(path)


def test_a_registered_factory_is_found_by_name(tmp_path, pruned, monkeypatch):
    monkeypatch.setattr("prune_gym.tasks.models.MODEL_FACTORIES", MODEL_FACTORIES)
    monkeypatch.setitem(MODEL_FACTORIES, "my_resnet", None)
    register_model("my_resnet", lambda num_classes: resnet20(widths=(4, 6, 8), num_classes=num_classes), overwrite=True)
    path = save_pruned(tmp_path / "net", pruned, factory="my_resnet", factory_kwargs={"num_classes": 5})
    assert torch.equal(load_pruned(path).fc.weight, pruned.fc.weight)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda **kwargs: nn.Linear(2, 2), "it has no 'conv1'"),
        (lambda **kwargs: resnet20(num_classes=5, widths=(1, 1, 1)), r"conv1\.weight is \[1, 1, 3, 3\] dense"),
        (lambda **kwargs: "resnet20", "returned a str"),
    ],
)
def test_a_factory_of_another_network_is_refused(saved, factory, message):
    with pytest.raises(ValueError, match=message):
        load_pruned(saved, factory=factory)


def test_a_table_that_contradicts_itself_is_refused(saved):
    modules = json.loads(saved.with_suffix(".json").read_text())["modules"]
    modules["conv1"]["attributes"]["out_channels"] = 3
    rewrite(saved, modules=modules)
    with pytest.raises(ValueError, match=r"conv1\.weight is \[2, 1, 3, 3\], its attributes say \[3, 1, 3, 3\]"):
        load_pruned(saved)


# --- content that a checksum says nothing about ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factory_kwargs": {"num_classes": 10**12}}, "a network of absurd size"),
        ({"modules": {"conv1": {"type": "Conv2d", "attributes": {"out_channels": -4}, "shapes": {}}}}, "absurd size"),
        ({"modules": {"conv1": {"type": "Conv2d", "attributes": {}, "shapes": {"weight": ["4"]}}}}, "modules.conv1"),
        ({"modules": [1]}, "'modules'"),
        ({"weights_bytes": "many"}, "'weights_bytes'"),
        ({"kept": {"conv1": "all"}}, "'kept"),
        ({"factory": 7}, "'factory'"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused_whatever_its_checksum(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_pruned(saved)
    assert "pruned.json" in str(caught.value)


def test_a_manifest_of_brackets_without_end_is_damaged(saved):
    saved.with_suffix(".json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"pruned\.json is truncated or not JSON"):
        load_pruned(saved)


def test_weights_that_are_no_numbers_are_refused(tmp_path, pruned):
    broken = copy.deepcopy(pruned)
    with torch.no_grad():
        broken.conv1.weight[0, 0, 0, 0] = torch.nan
    path = save_pruned(tmp_path / "broken.safetensors", broken, factory="resnet20", factory_kwargs=KWARGS)
    with pytest.raises(ValueError, match=r"'conv1\.weight' holds NaN"):
        load_pruned(path)
