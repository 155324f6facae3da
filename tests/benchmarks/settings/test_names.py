"""Names a configuration may hold: known without importing what they name, and the same as those of their owners."""

import subprocess
import sys

import baselines
from benchmarks.configs.files import CONFIG_DIR
from benchmarks.settings import names, schema
from benchmarks.settings.reading import load_config
from prune_gym.envs import reward
from prune_gym.tasks.imagenet import IMAGENET_TASKS
from prune_gym.tasks.named import NAMED_TASKS

READ = """
import sys
from benchmarks.settings.reading import load_config
load_config(sys.argv[1], ["pruning.method=taylor"])
print(len([name for name in sys.modules if name.partition(".")[0] in {own}]))
heavy = {{"torch", "gymnasium", "numpy", "baselines.workshop", "agents"}} & set(sys.modules)
assert not heavy, heavy
"""
OWN = ("hessian", "prune_gym", "agents", "baselines", "benchmarks")


def test_static_names_are_those_of_their_owners():
    registered = baselines.available()
    assert registered[: len(names.BASELINES)] == list(names.BASELINES)
    assert tuple(task.name for task in (*NAMED_TASKS, *IMAGENET_TASKS)) == names.TASKS
    assert (schema.LAMBDA_0, schema.TAU) == (reward.LAMBDA_0, reward.TAU)


def test_reading_a_configuration_imports_neither_pytorch_nor_a_baseline():
    command = [sys.executable, "-c", READ.format(own=OWN), str(CONFIG_DIR / "digits_resnet20.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 20


def test_a_method_that_somebody_registered_is_known(monkeypatch):
    assert not names.is_method("mine")
    monkeypatch.setattr(names, "method_names", lambda: ["mine"])
    assert names.is_method("mine")
    config = load_config(CONFIG_DIR / "digits_resnet20.yaml", ["pruning.method=mine"])
    assert config.pruning.method == "mine"
