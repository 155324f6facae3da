"""What is exported computes what the model computes, at batch sizes it was not traced with; else nothing is written."""

import pytest
import torch
from torch import nn

from prune_gym.saving import export
from prune_gym.saving.export import export_onnx, export_program, export_state_dict
from prune_gym.surgery.pruner import PhysicalPruner
from prune_gym.tasks.models import resnet20


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(0)
    model = resnet20(in_channels=3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_var.uniform_(0.5, 1.5)
    pruner = PhysicalPruner(model, torch.randn(1, 3, 16, 16))
    return pruner.prune({group.name: list(range(5)) for group in pruner.groups})


@pytest.fixture
def images():
    return torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(9))


def test_a_program_computes_what_the_model_computes_at_any_batch_size(pruned, images, tmp_path, device):
    model, images = pruned.to(device), images.to(device)
    parity = export_program(model, images[:1], tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for batch in (1, 3, 7):
        torch.testing.assert_close(loaded(images[:batch]), model(images[:batch]), atol=1e-4, rtol=1e-4)
    assert parity.max_error <= 1e-4
    assert parity.batch_sizes == (1, 2, 5)
    pruned.to("cpu")


def test_an_onnx_file_computes_what_the_model_computes_at_any_batch_size(pruned, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    parity = export_onnx(pruned, images[:1], tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (name,) = [node.name for node in session.get_inputs()]
    for batch in (1, 3, 7):
        (logits,) = session.run(None, {name: images[:batch].numpy()})
        torch.testing.assert_close(torch.as_tensor(logits), pruned(images[:batch]), atol=1e-4, rtol=1e-4)
    assert parity.max_error <= 1e-4
    assert parity.runtime == "onnxruntime"


def test_a_fixed_batch_is_the_examples(pruned, images, tmp_path):
    parity = export_program(pruned, images[:3], tmp_path / "net.pt2", dynamic_batch=False)
    assert parity.batch_sizes == (3,)
    with pytest.raises(Exception, match="3"):
        torch.export.load(tmp_path / "net.pt2").module()(images[:4])


def test_several_inputs_and_outputs_are_compared(tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, x, y):
            return self.a(x) + self.b(y), x.sum(dim=1)

    parity = export_program(Sum(), (torch.randn(1, 3), torch.randn(1, 4)), tmp_path / "net.pt2")
    assert parity.max_error <= 1e-6


def test_the_model_is_left_as_it_was(pruned, images, tmp_path):
    pruned.train()
    before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
    export_program(pruned, images, tmp_path / "net.pt2")
    assert pruned.training
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(tensor, before[name])
    pruned.eval()


def test_a_wrong_export_is_never_written(pruned, images, tmp_path, monkeypatch):
    honest = export._program

    def wrong(model, inputs, dynamic_batch):
        class Shifted(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = model

            def forward(self, x):
                return self.inner(x) + 1e-2

        return honest(Shifted().eval(), inputs, dynamic_batch)

    monkeypatch.setattr(export, "_program", wrong)
    with pytest.raises(ValueError, match=r"net\.pt2 differs from the model by .* more than the tolerance 1\.0e-04"):
        export_program(pruned, images, tmp_path / "net.pt2")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="nothing was written"):
        export_onnx(pruned, images, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [export_program, export_onnx])
@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(1, 5, 16, 16), r"CifarResNet does not run on an example input of shape \[\[1, 5, 16, 16\]\]"),
        (torch.zeros(1, 3, 16, 16, device="meta"), r"example_input is on meta but the model on cpu"),
        ("images", "example_input is a tensor"),
    ],
)
def test_bad_examples_are_explained(pruned, tmp_path, write, example, message):
    if write is export_onnx:
        pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=message):
        write(pruned, example, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_named(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ValueError, match="Branching cannot be exported"):
        export_program(Branching(), torch.zeros(2, 3), tmp_path / "net.pt2")


def test_missing_onnx_libraries_are_named(pruned, images, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnx" else object())
    with pytest.raises(ImportError, match=r"needs onnx: pip install 'prune-gym\[onnx\]'"):
        export_onnx(pruned, images, tmp_path / "net.onnx")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_plain_state_dict_needs_nothing_of_this_project(pruned, tmp_path, suffix):
    path = export_state_dict(pruned, tmp_path / f"net{suffix}")
    if suffix == ".safetensors":
        import safetensors.torch

        state = safetensors.torch.load_file(path)
    else:
        state = torch.load(path, weights_only=True)
    assert state.keys() == pruned.state_dict().keys()
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_other_suffixes_of_state_dicts_are_refused(pruned, tmp_path):
    with pytest.raises(ValueError, match=r"\.safetensors, \.pt or \.pth; got 'net\.bin'"):
        export_state_dict(pruned, tmp_path / "net.bin")


def test_an_exported_network_that_computes_nan_is_never_written(images, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export, "_as_runner", lambda module: lambda inputs: [torch.full((len(inputs[0]), 2), torch.nan)]
    )
    with pytest.raises(ValueError, match="differs from the model by nan"):
        export_program(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)), images[:1], tmp_path / "net.pt2")
    assert not (tmp_path / "net.pt2").exists()
