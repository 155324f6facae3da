"""A plain state dict of a pruned network is enough to rebuild it, and nothing else gets in."""

import pickle

import pytest
import torch

from prune_gym.saving.export import export_state_dict
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.surgery.state_dict import read_state_dict, shrink_to
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
