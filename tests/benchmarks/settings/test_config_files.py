"""Configurations that extend each other, the shipped ones, and their reference page."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import config_reference
from benchmarks.configs.files import CONFIG_DIR, config_names, config_path
from benchmarks.job import pipeline, stages
from benchmarks.job.run_folder import open_run
from benchmarks.job.task import load_task
from benchmarks.settings.reading import load_config, valid_keys
from benchmarks.settings.schema import Config
from benchmarks.settings.source import ConfigError, ConfigSource, _merge
from benchmarks.studies.speed.random_networks import enliven
from prune_gym.problem import PruningProblem
from prune_gym.tasks import make_task
from prune_gym.tasks.registry import task_size, task_takes
from tests.pages import code_blocks, run_page

BASE = """\
model: {name: resnet20}
dataset: {name: digits}
pruning:
  target_flops_reduction: 0.5
  finetune: {epochs: 3, batch_size: 32}
experiment: {name: base, random_seeds: [1, 2, 3]}
"""


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def error_of(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_file_is_laid_over_the_one_it_extends_key_by_key(write):
    write("bases/base.yaml", BASE)
    write("middle.yaml", "extends: bases/base.yaml\npruning: {finetune: {epochs: 5}}\n")
    path = write("deep/top.yaml", "extends: ../middle.yaml\nexperiment: {name: top, random_seeds: [7]}\n")
    config = load_config(path)
    assert (config.experiment.name, config.experiment.random_seeds) == ("top", (7,))  # lists are replaced
    assert (config.pruning.finetune.epochs, config.pruning.finetune.batch_size) == (5, 32)
    assert config.pruning.target_flops_reduction == 0.5
    assert load_config(path, ["pruning.finetune.epochs=9"]).pruning.finetune.epochs == 9
    # The resolved file stands alone.
    alone = write("alone.yaml", config.to_yaml())
    assert load_config(alone) == config


def test_errors_name_the_file_and_line_that_set_the_key(write):
    write("base.yaml", BASE + "# more\n".replace("more", "end"))
    path = write("top.yaml", "extends: base.yaml\npruning: {finetune: {epoch: 5}}\n")
    message = error_of(path)
    assert "top.yaml, line 2" in message
    assert "did you mean 'pruning.finetune.epochs'" in message
    write("base.yaml", BASE.replace("batch_size: 32", "batch_size: many"))
    message = error_of(write("top.yaml", "extends: base.yaml\npruning: {finetune: {epochs: 5}}\n"))
    assert "base.yaml, line 5" in message
    assert "top.yaml" not in message
    write("base.yaml", BASE)
    message = error_of(write("top.yaml", "extends: base.yaml\npruning: {finetune: 3}\n"))
    assert "top.yaml, line 2: 'pruning.finetune' must be a section" in message


def test_circles_are_named_link_by_link(write):
    write("a.yaml", "extends: b.yaml\n")
    path = write("b.yaml", "extends: ./a.yaml\n")
    message = error_of(path)
    assert "a.yaml, line 1: 'extends' goes round in a circle" in message
    assert re.search(r"b\.yaml -> .*a\.yaml -> .*b\.yaml", message)
    assert "circle" in error_of(write("self.yaml", BASE + "extends: self.yaml\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: bse.yaml\n", "top.yaml, line 1: 'extends': no configuration file"),
        ("extends: [a.yaml, b.yaml]\n", "names one file, relative to this one; got ['a.yaml', 'b.yaml']"),
        ("extends: 3\n", "names one file"),
        ("extends:\n", "names one file"),
        ("extends: broken.yaml\n", "broken.yaml: not valid YAML"),
        ("extends: binary.yaml\n", "binary.yaml: not a text file"),
        ("pruning: {extends: base.yaml}\n", "unknown key 'pruning.extends'"),
    ],
)
def test_what_cannot_be_extended_is_refused_by_file_and_line(write, text, said):
    write("base.yaml", BASE)
    write("broken.yaml", "a: [1\n")
    write("binary.yaml", "").write_bytes(b"\xff\xfe\x00a")
    message = error_of(write("top.yaml", text))
    assert said in message
    if "bse" in text:
        assert "base.yaml" in message  # the files there are


TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(TREES, TREES)
def test_the_file_on_top_always_wins_and_nothing_else_is_lost(below, above):
    merged = copy.deepcopy(below)
    _merge(merged, copy.deepcopy(above))
    found, said = leaves(merged), leaves(above)
    for path, value in said.items():
        assert value == {} or found[path] == value
    for path, value in leaves(below).items():
        replaced = any(related(path, other) for other in said)
        assert replaced or found[path] == value


def leaves(tree, path=()):
    """Path -> what stands there, empty sections included."""
    if not isinstance(tree, dict) or (not tree and path):
        return {path: tree}
    return {key: value for name, inner in tree.items() for key, value in leaves(inner, (*path, name)).items()}


def related(one, other):
    """Whether one path leads to or through the other."""
    return one[: len(other)] == other or other[: len(one)] == one


def test_origins_of_replaced_sections_are_forgotten(write):
    write("base.yaml", BASE)
    source = ConfigSource.from_file(write("top.yaml", "extends: base.yaml\npruning: 3\n"))
    assert source.origin(("pruning", "finetune", "epochs")).endswith("top.yaml, line 2")


RUNS = [name for name in config_names() if not name.startswith(("compare_", "transfer_"))]


def test_the_promised_configurations_are_there():
    promised = {"digits_resnet20", "fashion_resnet20", "fashion_vgg11", "cifar10_resnet56"}
    assert set(RUNS) == promised | {"resnet18", "resnet50", "mobilenetv2", "efficientnet_b0"}


@pytest.mark.parametrize("name", RUNS)
def test_every_shipped_configuration_fits_its_task(name):
    config = load_config(config_path(name))
    assert 0 < config.pruning.target_flops_reduction < 1
    assert task_size(config.task_name).layers > 0
    assert config.experiment.save_dir.name == name
    assert config.experiment.name == f"{name}_hobs_rspar"
    if name != "digits_resnet20":
        assert config.experiment.random_seeds == (42, 2024, 10086, 520, 1314)


IMAGENET = {"resnet18": "resnet18", "resnet50": "resnet50", "mobilenetv2": "mobilenet_v2"}
IMAGENET["efficientnet_b0"] = "efficientnet_b0"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A thousand class folders with one tiny image each, linked to a few files of noise."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(8):
        Image.effect_noise((20, 18), 40 + 10 * number).convert("RGB").save(root / f"{number}.jpg")
    for part in ("train", "val"):
        for number in range(1000):
            folder = root / part / f"n{number:08}"
            folder.mkdir(parents=True)
            (folder / "0.jpg").hardlink_to(root / f"{number % 8}.jpg")
    return root


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """torchvision's cache, holding random weights where its own would be."""
    from torchvision.models import get_model, get_model_weights

    def put(network):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        url = get_model_weights(network)["IMAGENET1K_V1"].url
        path = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(enliven(get_model(network, weights=None)).state_dict(), path)

    return put


def small(imagenet, folder, *more):
    """Overrides that make an ImageNet run a matter of seconds: tiny images, few of them, nothing trained."""
    return [
        f"dataset.data_dir={imagenet}",
        "dataset.image_size=8",
        "dataset.reward_size=4",
        "dataset.calibration_size=8",
        "pruning.finetune.epochs=0",
        "pruning.method=hobs-uniform",
        f"experiment.save_dir={folder}",
        *more,
    ]


# Elimination sweeps over networks of millions of weights take minutes; magnitudes select in no time.
QUICK = ("pruning.hobs.selection=magnitude", "pruning.hobs.refit=none", "pruning.reconstruction.steps=0")


@pytest.mark.parametrize("name", IMAGENET)
def test_an_imagenet_configuration_runs_from_folder_to_result(name, imagenet, downloaded, tmp_path, quick_job):
    downloaded(IMAGENET[name])
    config = load_config(config_path(name), small(imagenet, tmp_path / "out", *QUICK))
    folder = open_run(config, 42)
    result = pipeline.run_experiment(config, 42, folder, device=torch.device("cpu"))
    target = config.pruning.target_flops_reduction
    assert target <= result["flops_reduction"] <= target + stages.TOLERANCE
    assert result["task"] == f"imagenet-{IMAGENET[name]}"
    assert result["final"]["parameters"] < result["dense"]["parameters"] == task_size(result["task"]).parameters
    assert folder.checkpoint.is_file()


def test_image_size_resizes_where_the_task_can_and_is_checked_where_it_cannot(imagenet, downloaded, tmp_path):
    downloaded("resnet18")
    config = load_config(config_path("resnet18"), small(imagenet, tmp_path, "dataset.image_size=24"))
    task = load_task(config, torch.device("cpu"))
    assert task.example_input.shape == (1, 3, 24, 24)
    assert (len(task.reward), len(task.calibration)) == (4, 8)
    assert task_takes("imagenet-resnet18", "image_size")
    assert not task_takes("digits-resnet20", "image_size")
    digits = load_config(config_path("digits_resnet20"), ["dataset.image_size=24"])
    with pytest.raises(ConfigError, match=r"'dataset.image_size' is 24, but the task 'digits-resnet20' has 16"):
        load_task(digits, torch.device("cpu"))


def test_a_named_task_at_another_size_is_refused_where_flops_were_counted_before(imagenet, downloaded):
    downloaded("resnet18")
    options = {"data_dir": imagenet, "image_size": 16, "reward_size": 4, "calibration_size": 8, "workers": 0}
    problem = PruningProblem("imagenet-resnet18", selection="magnitude", repair="none", task_options=options)
    with pytest.raises(ValueError, match=r"counted for inputs \[3, 224, 224\].*has \[3, 16, 16\]; pass the built task"):
        problem.load()
    with pytest.raises(ValueError, match="image_size is at least 1"):
        make_task("imagenet-resnet18", data_dir=imagenet, image_size=0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataset.reward_size=10", "'dataset.reward_size': the task 'digits-resnet20' takes none"),
        ("dataset.data_dir=/data", "'dataset.data_dir': the task 'digits-resnet20' takes none"),
    ],
)
def test_options_a_task_does_not_take_are_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        load_task(load_config(config_path("digits_resnet20"), [override]), torch.device("cpu"))


def test_sizes_the_data_does_not_have_are_refused(imagenet, downloaded, tmp_path):
    downloaded("resnet18")
    config = load_config(config_path("resnet18"), small(imagenet, tmp_path, "dataset.reward_size=101"))
    with pytest.raises(ConfigError, match=r"reward_size is in \[1, 100\]; got 101"):
        load_task(config, torch.device("cpu"))


def test_the_reference_page_is_up_to_date():
    page = config_reference.PAGE.read_text(encoding="utf-8")
    assert page == config_reference.reference_page(), "run python -m benchmarks.config_reference"
    assert config_reference.main(["--check"]) == 0


def test_the_check_notices_a_page_that_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config_reference, "PAGE", tmp_path / "page.md")
    assert config_reference.main(["--check"]) == 1
    assert "run python -m benchmarks.config_reference" in capsys.readouterr().err
    assert config_reference.main([]) == 0
    assert config_reference.main(["--check"]) == 0


def test_every_key_has_a_row_with_its_type_and_default():
    page = config_reference.reference_page()
    for path in valid_keys():
        if path == ("pruning", "rspar", "tau"):
            assert "| `tau` | number >= 0 | `1.0` |" in page
        section = ".".join(path[:-1])
        if config_reference._inner(field(path)) is None:
            table = page.split(f"### `{section}`\n", 1)[1].split("###", 1)[0]
            assert f"| `{path[-1]}` |" in table
    for words in ("number in (0, 1)", "`soft` or `hard`", "list of: whole number >= 0", "true or false", "(needed)"):
        assert words in page


def field(path):
    section = Config
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    return section.model_fields[path[-1]]


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, capsys):
    page = config_reference.PAGE.read_text(encoding="utf-8")
    shutil.copytree(CONFIG_DIR, tmp_path / "benchmarks" / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    (text,) = code_blocks(config_reference.PAGE, "yaml")
    Path("mine.yaml").write_text(text)
    (command,) = re.findall(r"^```bash\nprune-gym run --config mine.yaml (\S+) '(.*)'\n```", page, flags=re.MULTILINE)
    config = load_config("mine.yaml", command)
    assert config.pruning.target_flops_reduction == 0.9
    assert config.experiment.random_seeds == (1, 2)
    assert config.pruning.finetune.epochs == 2
    run_page(config_reference.PAGE)
    shown = capsys.readouterr().out
    assert "imagenet-resnet50 0.5 0.9" in shown
    for name in config_names():
        assert f"`{name}`" in page
