"""A plain state dict of a pruned network is enough to rebuild it, and nothing else gets in."""

import io
import pickle
import random
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from prune_gym.saving.export import export_state_dict
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.surgery.state_dict import read_state_dict, shrink_to, signed_archive
from tests.prune_gym.surgery_networks import BY_NAME, CASES


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_coupling_is_rebuilt_from_its_tensors(case, tmp_path, suffix):
    pruned = PhysicalPruner(case.model(), case.inputs()).prune(case.plan)
    path = export_state_dict(pruned, tmp_path / f"net{suffix}")
    rebuilt = shrink_to(case.model(seed=5), read_state_dict(path))
    assert torch.equal(rebuilt(case.inputs()), pruned(case.inputs()))
    assert not rebuilt.training


def test_prefixes_of_wrappers_and_an_outer_state_dict_are_understood(tmp_path):
    case = BY_NAME["residual"]
    state = case.model().state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "net.pth")
    assert read_state_dict(tmp_path / "net.pth").keys() == state.keys()


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_that_are_no_state_dict_are_refused_and_never_run(tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"weight": Evil()}, tmp_path / "evil2.pt")
    (tmp_path / "short.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    for name in ("evil.pt", "evil2.pt", "short.safetensors", "empty.pth", "other.pt"):
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            read_state_dict(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        read_state_dict(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("a.weight"), "'a.weight' is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' is unexpected"),
        (lambda state: state.update({"a.weight": torch.zeros(9, 6, 3, 3)}), r"a\.weight is \[9, 6, 3, 3\], dense"),
        (lambda state: state.update({"bn.bias": torch.zeros(5)}), r"contradicts itself: bn\.bias"),
    ],
)
def test_a_state_of_another_network_is_refused_by_name(change, message):
    case = BY_NAME["residual"]
    state = dict(case.model().state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        shrink_to(case.model(), state)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_flipped_bit_of_an_exported_file_gives_other_weights(tmp_path, suffix):
    model = nn.Linear(5, 3)
    path = export_state_dict(model, tmp_path / f"weights{suffix}")
    sound, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_state_dict(path)
        except ValueError:
            refused += 1
            continue
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert refused > 50


def test_an_exported_archive_is_what_pytorch_reads_and_a_changed_tensor_does_not_match(tmp_path):
    model = nn.Linear(5, 3)
    path = export_state_dict(model, tmp_path / "weights.pt")
    state = torch.load(path, weights_only=True)
    assert state.keys() == model.state_dict().keys()
    data = path.read_bytes()
    other = signed_archive({name: tensor + 1 for name, tensor in state.items()})
    with zipfile.ZipFile(path, "w") as forged, zipfile.ZipFile(io.BytesIO(other)) as tensors:
        digest = zipfile.ZipFile(io.BytesIO(data))
        for name in tensors.namelist():
            own = name.endswith("/sha256")
            origin = next(entry for entry in digest.namelist() if entry.endswith("/sha256")) if own else name
            forged.writestr(name, (digest if own else tensors).read(origin))
    with pytest.raises(ValueError, match="does not match its checksum"):
        read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_foreign_files_are_read_but_not_their_nan(tmp_path, suffix):
    state = {"weight": torch.ones(2, 3), "steps": torch.tensor(4)}
    save = torch.save if suffix == ".pt" else safetensors.torch.save_file
    save(state, tmp_path / f"x{suffix}")
    assert torch.equal(read_state_dict(tmp_path / f"x{suffix}")["weight"], state["weight"])
    save({**state, "weight": state["weight"] * torch.nan}, tmp_path / f"x{suffix}")
    with pytest.raises(ValueError, match=r"x\..*'weight' holds NaN"):
        read_state_dict(tmp_path / f"x{suffix}")
