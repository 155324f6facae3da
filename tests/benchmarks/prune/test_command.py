"""``prune-gym prune`` from folders of images to a network that loads."""

import json
import sys

import pytest
import torch
from PIL import Image

from benchmarks import cli
from benchmarks.prune.images import list_images, preprocessing_of, read_images
from benchmarks.prune.models import load_model
from benchmarks.prune.options import read_options
from prune_gym.saving.export import export_program
from tests.prune_gym.tiny import TinyNet, tiny_task

MODEL = "tests.prune_gym.tiny:TinyNet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits as image files, and the weights of the network as a trainer keeps them."""
    root = tmp_path_factory.mktemp("digits")
    task = tiny_task()
    for name, split in (("train", task.train.subset(slice(200))), ("val", task.reward)):
        for index, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
            pixels = ((image[0] + 0.6) * 8.0 / 16 * 255).round().clamp(0, 255).byte()
            place = root / name / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(place / f"{index:04}.png")
    weights = {f"module.{name}": tensor for name, tensor in task.model.state_dict().items()}
    torch.save({"state_dict": weights}, root / "weights.pth")
    return root


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def arguments(folder, *more, model=MODEL, weights=True):
    return [
        *("--model", model),
        *(("--weights", str(folder / "weights.pth")) if weights else ()),
        *("--images", str(folder / "train"), "--mean", "0.3", "--std", "0.5", "--threads", "1", *more),
    ]


def prune(folder, *more, **options):
    return cli.main(["prune", *arguments(folder, *more, **options)])


def test_one_command_writes_a_network_its_numbers_a_page_and_onnx(folder, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    code = prune(
        folder,
        "--val",
        str(folder / "val"),
        "--flops",
        "0.5",
        "--no-reconstruct",
        "--onnx",
        "small.onnx",
        "--out",
        "out",
    )
    shown = capsys.readouterr().out
    assert code == 0, shown
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["flops_reduction"] >= 0.5
    assert result["prune"]["scored_by"] == "accuracy"
    assert result["prune"]["onnx"]["largest_difference"] < 1e-4
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "small.onnx").is_file()
    names: dict = {}
    lines = [line.strip() for line in shown.splitlines()[-3:]]
    assert lines == result["prune"]["load"]
    exec("\n".join(lines), names)
    assert names["model"].conv1.out_channels == result_channels(result)


def result_channels(result):
    return round(8 * (1 - result["budgets"]["conv1"]))


def test_something_is_shown_before_pytorch_is_loaded():
    script = (
        "import sys, benchmarks.prune.command as command\n"
        "command._run = lambda options, console: print('torch' in sys.modules)\n"
        "command.main(['--model', 'a:b', '--images', '.', '--flops', '0.5', '--out', 'nowhere'])"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "a:b: 50 % of the FLOPs removed"
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--flops", "50"], "--flops is a share to remove"),
        (["--flops", "0.5", "--latency", "fast"], "--latency is a time such as 4.2ms"),
        ([], "say how small: --flops 0.5"),
        (["--flops", "0.5", "--val", "nowhere"], "--val nowhere: does not exist"),
        (["--flops", "0.5", "--std", "0"], "--std: standard deviations are positive"),
        (["--flops", "0.5", "--pretrained"], "--weights and --pretrained exclude each other"),
        (["--flops", "0.5", "--labels", "csv"], "labels.csv cannot be read"),
        (["--flops", "0.5", "--num-classes", "7"], "cannot be built with {'num_classes': 7}"),
        (["--flops", "0.5", "--model", "tests.prune_gym.tiny:NoNet"], "has no 'NoNet'"),
        (["--flops", "0.5", "--model", "no.such.module:f"], "--model no.such.module: No module named"),
        (["--flops", "0.5", "--model", "torchvision:resnet19"], "did you mean 'resnet"),
        (["--flops", "0.5", "--import", "no_such_module"], "--import no_such_module"),
        (["--flops", "0.9999"], "of the FLOPs can be removed"),
        (["--flops", "0.5", "--gpu", "93"], "--gpu 93"),
    ],
)
def test_refusals_name_the_option_and_leave_nothing_behind(folder, tmp_path, change, message, capsys):
    assert prune(folder, *change, "--out", "out", "--no-reconstruct") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_are_not_replaced_unless_asked(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    assert prune(folder, "--flops", "0.5", "--out", "out") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_an_archive_is_read_only_if_it_is_trusted(folder, tmp_path, capsys):
    task = tiny_task()
    export_program(task.model, task.example_input, tmp_path / "tiny.pt2")
    given = ["--flops", "0.5", "--no-reconstruct", "--out", "out", "--labels", "none"]
    assert prune(folder, *given, model="tiny.pt2", weights=False) == 2
    assert "say --trust" in capsys.readouterr().err
    assert prune(folder, *given, "--trust", model="tiny.pt2", weights=False) == 0
    assert "agreement with the dense network" in capsys.readouterr().out


def test_the_number_of_classes_is_the_weights_own(tmp_path):
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=7).state_dict(), tmp_path / "weights.pth")
    options = read_options(
        ["--model", "torchvision:resnet18", "--weights", "weights.pth", "--images", str(tmp_path), "--flops", "0.5"],
        None,
    )
    loaded = load_model(options)
    assert loaded.model.fc.out_features == 7
    assert loaded.factory == "lambda: get_model('resnet18', num_classes=7)"
    assert any("7 classes" in note for note in loaded.notes)


def test_labels_come_from_folders_or_a_table_or_not_at_all(folder, tmp_path):
    in_folders = list_images("--images", folder / "train", "auto")
    assert in_folders.classes == tuple("0123456789")
    assert list_images("--images", folder / "train", "none").labels is None
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(flat / name)
    assert list_images("--images", flat, "auto").labels is None
    (flat / "labels.csv").write_text("file,label\na.png,cat\nb.png,ant\n")
    table = list_images("--images", flat, "auto")
    assert (table.classes, table.labels) == (("ant", "cat"), (1, 0))
    assert list_images("--images", flat, "csv", ("cat", "ant")).labels == (0, 1)


def test_images_reach_the_network_as_it_was_trained_on_them(folder):
    options = read_options(arguments(folder, "--flops", "0.5"), None)
    listing = list_images("--images", folder / "train", "auto")
    preprocessing, channels, _ = preprocessing_of(options, listing, TinyNet(), None)
    assert (preprocessing.size, channels) == (8, 1)
    pictures = read_images("--images", listing, preprocessing, channels, 50, lambda *told: None)
    assert pictures.images.shape == (50, 1, 8, 8)
    with Image.open(listing.files[0]) as image:
        first = image.getpixel((3, 2)) / 255
    assert float(pictures.images[0, 0, 2, 3]) == pytest.approx((first - 0.3) / 0.5, abs=1e-6)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_its_options(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert command in shown
    assert "max-drop" in shown


def test_a_command_that_does_not_exist_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit):
        cli.main(["prun"])
    assert "did you mean 'prune'?" in capsys.readouterr().err
