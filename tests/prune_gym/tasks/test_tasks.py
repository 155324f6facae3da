import copy
import dataclasses
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler, TensorDataset

from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import TensorSplit
from prune_gym.problem import PruningProblem
from prune_gym.support.files import load_safetensors, save_safetensors_atomic
from prune_gym.tasks import PruningTask, make_task, register_task, task_names
from prune_gym.tasks import registry as tasks
from prune_gym.tasks.models import build_model
from prune_gym.tasks.named import NAMED_TASKS, named_task
from prune_gym.tasks.registry import task_default_target, task_size, task_status, task_structure
from prune_gym.tasks.task import network_digest, task_from_loaders
from prune_gym.training import evaluate_model, train_dense


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """A registry of this test's own."""
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))


def images(count=4):
    return torch.linspace(-1, 1, count * 16).reshape(count, 1, 4, 4)


def linear_task(model=None, **changes):
    fields = {
        "name": "linear",
        "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) if model is None else model,
        "example_input": images(1),
        "calibration": (images(), torch.tensor([0, 1, 2, 0])),
        "reward": TensorSplit(images(), torch.tensor([0, 1, 2, 0])),
        "test": None,
    }
    return PruningTask(**{**fields, **changes})


LABELS = torch.tensor([0, 1, 2, 0])


class Pairs(Dataset):
    """A dataset that says nothing but its length and its items, and counts what is asked for."""

    def __init__(self, items):
        self.items = items
        self.asked = 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.asked += 1
        return self.items[index]


def pairs():
    return Pairs(list(zip(images(), LABELS.tolist(), strict=True)))


KINDS = {
    "tensors": lambda: (images(), LABELS),
    "list of tensors": lambda: [images(), LABELS],
    "split": lambda: TensorSplit(images(), LABELS),
    "tensor dataset": lambda: TensorDataset(images(), LABELS),
    "dataset": pairs,
    "loader": lambda: DataLoader(pairs(), batch_size=3),
    "shuffled loader": lambda: DataLoader(pairs(), batch_size=2, shuffle=True, drop_last=True),
    "loader of a subset": lambda: DataLoader(pairs(), batch_size=3, sampler=SubsetRandomSampler([0, 1, 2, 3])),
    "loader with batches of its own": lambda: DataLoader(pairs(), batch_sampler=[[0, 1], [2, 3]]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["calibration", "reward", "test", "train"])
def test_every_kind_of_split_holds_the_same_images_in_order(kind, split):
    model = linear_task().model
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    task = linear_task(model=model, **{split: KINDS[kind]()})
    held = getattr(task, split)
    assert len(held) == 4
    assert isinstance(held, TensorSplit) or split in ("test", "train")
    for _ in range(2):
        batches = list(held.batches(3))
        assert [len(labels) for _, labels in batches] == [3, 1]
        assert torch.equal(torch.cat([part for part, _ in batches]), images())
        assert torch.equal(torch.cat([labels for _, labels in batches]), LABELS)
    ((few, _),) = held.subset(slice(2)).batches(5)
    assert torch.equal(few, images()[:2])
    ((reordered, _),) = held.subset(torch.tensor([3, 1])).batches(5)
    assert torch.equal(reordered, images()[[3, 1]])
    (chosen,) = held.batches_at([torch.tensor([2, 0])])
    assert torch.equal(chosen[0], images()[[2, 0]])
    assert chosen[1].tolist() == [2, 0]
    assert torch.equal(torch.rand(1), expected) or kind == "loader with batches of its own"


def test_training_and_test_images_stay_in_their_dataset_until_asked_for():
    train, test = pairs(), pairs()
    task = linear_task(train=train, test=DataLoader(test, batch_size=2))
    assert (train.asked, test.asked) == (1, 1)
    list(task.test.batches(2))
    assert (train.asked, test.asked) == (1, 5)


def test_images_of_another_shape_are_found_in_any_batch():
    items = [(torch.zeros(1, 4, 4), 0)] * 256 + [(torch.zeros(1, 4, 5), 0)]
    with pytest.raises(ValueError, match=r"reward: images differ in shape, for example \[1, 4, 4\] and \[1, 4, 5\]"):
        linear_task(reward=Pairs(items))


def test_a_network_is_trained_alike_from_memory_and_from_a_dataset():
    states = []
    for split in (TensorSplit(images(), LABELS), linear_task(train=pairs()).train):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        train_dense(model, split, epochs=3, batch_size=3, augment=Augmentation(1.0, 0.0, True))
        states.append(model[1].weight)
    assert torch.equal(*states)


def test_a_task_of_loaders_calibrates_on_evenly_spread_training_images():
    task = task_from_loaders(
        "mine", linear_task().model, train=DataLoader(pairs()), reward=pairs(), test=pairs(), calibration_size=2
    )
    assert torch.equal(task.calibration.images, images()[[0, 2]])
    assert task.example_input.shape == (1, 1, 4, 4)
    assert (len(task.train), len(task.reward), len(task.test)) == (4, 4, 4)
    with pytest.raises(ValueError, match="calibration_size is at least 1"):
        task_from_loaders("mine", linear_task().model, train=pairs(), reward=pairs(), calibration_size=0)


def test_five_lines_make_a_users_own_task_an_environment(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    loader = DataLoader(pairs(), batch_size=2, shuffle=True)
    register_task("mine", lambda: task_from_loaders("mine", model, train=loader, reward=loader, test=loader))
    env = gym.make("HOBSPrune-v0", task="mine")
    env.reset(seed=0)
    assert 0 <= env.step(env.action_space.sample())[-1]["accuracy"] <= 1


def test_a_task_is_frozen_and_leaves_the_models_mode_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)).train()
    model[1].eval()
    task = linear_task(model=model)
    assert [module.training for module in model] == [True, False, True]
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.name = "other"


NAN = torch.where(torch.arange(64).reshape(4, 1, 4, 4) == 7, torch.nan, images())
WRONG = {
    "empty split": ({"reward": (images(0), LABELS[:0])}, ValueError, "reward: the split is empty"),
    "empty dataset": ({"test": TensorDataset(images(0), LABELS[:0])}, ValueError, "empty"),
    "lengths": ({"reward": (images(3), LABELS)}, ValueError, r"images \[3, 1, 4, 4\] and labels \[4\]"),
    "empty loader": ({"reward": DataLoader(Pairs([]))}, ValueError, "reward: the split is empty"),
    "sizes": (
        {"reward": Pairs([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 5, 4), 0)])},
        ValueError,
        "reward: images diff",
    ),
    "not pairs": (
        {"reward": Pairs([torch.zeros(1, 4, 4)])},
        TypeError,
        r"reward: .* pairs \(image, label\); got Tensor",
    ),
    "not tensors": ({"train": Pairs([("cat.png", 0)])}, TypeError, "train: .*images are tensors; got str.*transform"),
    "text labels": ({"test": Pairs([(torch.zeros(1, 4, 4), "cat")])}, TypeError, "test: .*class indices; got 'cat'"),
    "label in a dataset": ({"test": Pairs([(torch.zeros(1, 4, 4), 9)])}, ValueError, "test: labels run from 9"),
    "triples": (
        {"test": DataLoader(Pairs([1]), batch_sampler=[[0]])},
        TypeError,
        r"batches are pairs \(images, labels",
    ),
    "nan": ({"train": (NAN, LABELS)}, ValueError, "train: images hold NaN"),
    "bytes": ({"reward": (images().byte(), LABELS)}, ValueError, "reward: images are floats.*uint8"),
    "float labels": ({"reward": (images(), LABELS.float())}, ValueError, "labels are class indices.*float32"),
    "label too high": ({"reward": (images(), LABELS + 1)}, ValueError, "labels run from 1 to 3.*0 to 2"),
    "label negative": ({"test": (images(), LABELS - 1)}, ValueError, "labels run from -1 to 1"),
    "image shape": ({"reward": (images().reshape(4, 1, 2, 8), LABELS)}, ValueError, r"\[1, 2, 8\].*\[1, 4, 4\]"),
    "example shape": ({"example_input": torch.zeros(1, 3, 4, 4)}, ValueError, "does not accept example_input"),
    "example type": ({"example_input": [1.0]}, TypeError, "example_input is a float tensor"),
    "no split": ({"reward": None}, TypeError, "reward: expected .* got NoneType"),
    "wrong tuple": ({"reward": (images(), [0, 1])}, TypeError, r"reward: a tuple must be the tensors"),
    "no logits": ({"model": nn.Identity()}, ValueError, r"logits \[N, num_classes\]; it returned \[1, 1, 4, 4\]"),
    "no model": ({"model": torch.sum}, TypeError, "model must be a torch.nn.Module"),
    "name": ({"name": ""}, TypeError, "name is a non-empty text"),
    "target": ({"default_target": 1.0}, ValueError, r"\(0, 1\), for example 0.76; got 1.0"),
    "criterion": ({"criterion": "mse"}, TypeError, "criterion is a function"),
    "ignored text": ({"ignored_layers": "1"}, TypeError, r"write \('1',\)"),
    "ignored layer": ({"ignored_layers": ("fc",)}, ValueError, "modules the model lacks: 'fc'"),
}


@pytest.mark.parametrize(("changes", "error", "message"), WRONG.values(), ids=WRONG)
def test_a_task_that_does_not_fit_together_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        linear_task(**changes)


def test_a_task_works_on_every_device(device):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(device)
    assert linear_task(model=model).model is model


def test_a_registered_task_is_made_by_its_name():
    register_task("mine", linear_task, description="a line")
    assert "mine" in task_names()
    assert tasks.task_description("mine") == "a line"
    assert make_task("mine").name == "mine"


def test_an_unknown_task_suggests_the_nearest_and_lists_all():
    for call in (make_task, task_structure):
        with pytest.raises(KeyError, match=r"did you mean 'digits-resnet20'\?.*fashion-resnet20"):
            call("digit-resnet20")


def test_a_name_is_registered_once_unless_overwritten():
    register_task("mine", linear_task)
    with pytest.raises(ValueError, match="'mine' is already registered"):
        register_task("mine", linear_task)
    register_task("mine", linear_task, default_target=0.3, overwrite=True)
    assert make_task("mine").default_target == 0.3


def test_overrides_replace_fields_and_the_rest_reaches_the_factory():
    seen = {}

    def factory(**options):
        seen.update(options)
        return linear_task()

    register_task("mine", factory)
    assert make_task("mine", default_target=0.7, data_dir="here").default_target == 0.7
    assert seen == {"data_dir": "here"}
    with pytest.raises(ValueError, match="got 2"):
        make_task("mine", default_target=2)


def test_a_factory_that_takes_no_such_option_says_so():
    with pytest.raises(TypeError, match=r"task 'digits-resnet20': .*colour"):
        make_task("digits-resnet20", colour="red")
    with pytest.raises(
        TypeError, match=r"'imagenet-resnet18' takes no option 'colour' \(its options: data_dir, weights"
    ):
        make_task("imagenet-resnet18", colour="red")
    register_task("mine", lambda: linear_task())
    with pytest.raises(TypeError, match=r"'mine' takes no option 'data_dir' \(its options: none\)"):
        make_task("mine", data_dir="here")


def test_what_a_factory_raises_comes_through():
    def factory():
        raise FileNotFoundError("no images in /data")

    register_task("mine", factory)
    with pytest.raises(FileNotFoundError, match="no images in /data"):
        gym.make("HOBSPrune-v0", task="mine")


def test_a_factory_must_return_a_task():
    register_task("mine", lambda: 3)
    with pytest.raises(TypeError, match="'mine' returned int"):
        make_task("mine")


def test_the_structure_is_read_without_the_factory():
    def factory():
        raise AssertionError("data asked for")

    network = linear_task().model
    register_task("mine", factory, structure=lambda: (network, images(1)), default_target=0.4, ignored_layers=["1"])
    structure = task_structure("mine")
    assert structure.model is network
    assert structure[2:] == (("1",), 0.4)


def test_without_a_structure_the_task_itself_gives_it():
    register_task("mine", lambda: linear_task(default_target=0.6, ignored_layers=["1"]))
    model, example_input, ignored_layers, default_target = task_structure("mine")
    assert model(example_input).shape == (1, 3)
    assert (ignored_layers, default_target) == (("1",), 0.6)


def test_structure_and_task_must_agree():
    def structure():
        return linear_task().model, images(1)

    with pytest.raises(ValueError, match="structure needs default_target"):
        register_task("mine", linear_task, structure=structure)
    register_task("mine", linear_task, structure=structure, default_target=0.4, ignored_layers=["1"])
    with pytest.raises(ValueError, match=r"ignores \[\], but was registered with ignored_layers=\['1'\]"):
        make_task("mine")


@pytest.mark.parametrize(("name", "factory"), [("", linear_task), (3, linear_task), ("mine", "linear")])
def test_what_cannot_be_registered_is_refused(name, factory):
    with pytest.raises(TypeError):
        register_task(name, factory)


def test_the_embedded_task_reaches_its_accuracy(digits_task):
    assert evaluate_model(digits_task.model, digits_task.test).accuracy >= 0.98
    assert digits_task.default_target == 0.9
    assert not digits_task.model.training


def test_a_named_task_can_be_rebuilt_from_its_factory(digits_task):
    model = build_model(digits_task.model_factory, **digits_task.model_kwargs)
    model.load_state_dict(digits_task.model.state_dict())


SMALL = [task.name for task in NAMED_TASKS]


@pytest.mark.parametrize("name", [*SMALL, "imagenet-resnet18"])
def test_the_size_of_a_task_is_what_its_network_has(name, monkeypatch):
    stated = task_size(name)
    entry = tasks._REGISTRY[name]
    monkeypatch.setitem(tasks._REGISTRY, name, dataclasses.replace(entry, size=None))
    assert task_size(name) == stated


def test_every_task_names_a_target_in_reach_and_a_line_about_itself():
    for name in (task.name for task in NAMED_TASKS):
        assert 0 < task_default_target(name) < 1
        assert tasks.task_description(name)
    for name in SMALL:
        problem = PruningProblem(name)
        problem.cost.check_target(problem.default_target, problem.cost.limits(0.95))


def test_the_documentation_states_every_task_with_its_layers_and_target():
    text = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text()
    stated = {}
    for line in text.splitlines():
        cells = [cell.strip(" `") for cell in line.split("|")[1:-1]]
        if cells and cells[0] in task_names():
            stated[cells[0]] = (int(cells[1]), int(cells[2].replace(",", "")), float(cells[5]))
    actual = {}
    for task in tasks._PACKAGED:
        size = task_size(task.name)
        actual[task.name] = (size.layers, size.channels, task_default_target(task.name))
    assert stated == actual


def test_the_status_tells_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNE_GYM_FASHION_MNIST", str(tmp_path))
    monkeypatch.setenv("PRUNE_GYM_CIFAR10", str(tmp_path))
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path))
    status = task_status("fashion-vgg11")
    assert (status.data, status.weights, status.dense_accuracy) == ("missing", "shipped", 0.936)
    assert "dataset-fashion-mnist" in status.to_do[0]
    status = task_status("cifar10-resnet20")
    assert (status.data, status.weights, status.dense_accuracy) == ("missing", "missing", None)
    assert "benchmarks.train_dense" in status.to_do[1]
    shipped = task_status("digits-resnet20")
    assert (shipped.data, shipped.weights, shipped.to_do) == ("shipped", "shipped", ())
    task = named_task("cifar10-resnet20")
    train = TensorSplit(images(), LABELS)
    task.save_weights(task.weights_path, task.structure()[0], train, seed=0, test_accuracy=0.9321)
    assert task_status("cifar10-resnet20").dense_accuracy == 0.9321
    task.weights_path.write_bytes(b"damaged")
    assert task_status("cifar10-resnet20").dense_accuracy is None


def test_the_stated_accuracy_of_the_shipped_weights_is_theirs(digits_task):
    assert task_status("digits-resnet20").dense_accuracy == evaluate_model(digits_task.model, digits_task.test).accuracy


@pytest.mark.parametrize("name", SMALL)
def test_the_structure_of_a_named_task_needs_neither_data_nor_weights(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    structure = task_structure(name)
    assert len(structure.model(structure.example_input)) == 1
    assert torch.equal(torch.rand(1), expected), "the caller's random stream was disturbed"


def test_the_structure_has_the_names_and_shapes_of_the_task(digits_task):
    structure = task_structure("digits-resnet20")
    shapes = {name: value.shape for name, value in structure.model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in digits_task.model.state_dict().items()}
    assert structure.example_input.shape == digits_task.example_input.shape
    assert structure[2:] == (digits_task.ignored_layers, digits_task.default_target)


def test_structures_are_read_without_importing_data_libraries():
    code = (
        "import sys; from prune_gym.tasks.registry import task_structure; task_structure('digits-resnet20');"
        "print([name for name in ('sklearn', 'torchvision', 'matplotlib', 'stable_baselines3')"
        " if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_seed_of_a_structure_decides_its_weights():
    first, again, other = (named_task("digits-resnet20").structure(seed)[0].fc.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_missing_from_the_cache_say_how_to_make_them(monkeypatch):
    splits = named_task("digits-resnet20").load_splits()
    task = dataclasses.replace(named_task("cifar10-resnet20"), load_splits=lambda: splits)
    with pytest.raises(FileNotFoundError, match=r"python -m benchmarks\.train_dense --task cifar10-resnet20"):
        task.build()


def test_other_weights_can_be_named(tmp_path):
    task = named_task("digits-resnet20")
    model, _ = task.structure(seed=5)
    path = task.save_weights(tmp_path / "w.safetensors", model, task.load_splits().train, seed=5)
    loaded = make_task("digits-resnet20", weights=path).model
    assert torch.equal(loaded.conv1.weight, model.conv1.weight)
    assert load_safetensors(path)[1]["seed"] == "5"


def test_weights_trained_on_other_images_are_refused(tmp_path):
    """Their training may have seen today's reward split."""
    task = named_task("digits-resnet20")
    other = task.load_splits(seed=1).train
    path = task.save_weights(tmp_path / "w.safetensors", task.structure()[0], other, seed=0)
    with pytest.raises(ValueError, match="other training images"):
        make_task("digits-resnet20", weights=path)


def test_weights_of_another_network_are_refused(tmp_path):
    task = named_task("digits-resnet20")
    model = build_model("resnet20", widths=(4, 4, 4))
    path = task.save_weights(tmp_path / "w.safetensors", model, task.load_splits().train, seed=0)
    with pytest.raises(ValueError, match="does not fit the network of task 'digits-resnet20'"):
        make_task("digits-resnet20", weights=path)


def test_damaged_weights_are_refused(tmp_path):
    path = save_safetensors_atomic(tmp_path / "w.safetensors", {"a": torch.zeros(9)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        make_task("digits-resnet20", weights=path)


def test_a_named_task_without_recipe_is_unknown():
    with pytest.raises(KeyError, match=r"recipes for: cifar10-resnet20, .*, fashion-vgg11"):
        named_task("mine")


def test_the_digest_of_a_network_follows_its_weights_and_what_it_is_measured_on(tiny_task):
    def nudged(split):
        return TensorSplit(split.images + 0.5, split.labels)

    model = copy.deepcopy(tiny_task.model)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    others = [dataclasses.replace(tiny_task, model=model), dataclasses.replace(tiny_task, test=None)]
    others += [
        dataclasses.replace(tiny_task, **{name: nudged(getattr(tiny_task, name))}) for name in ("calibration", "reward")
    ]
    digests = {network_digest(task) for task in (tiny_task, *others)}
    assert len(digests) == 5
    assert network_digest(dataclasses.replace(tiny_task, name="other", model=copy.deepcopy(tiny_task.model))) in digests
