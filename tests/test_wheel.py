"""The wheel as a user has it: built, installed where no checkout is, and run by its console script."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("agents", "baselines", "benchmarks", "hessian", "prune_gym")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="paths of a virtual environment on Linux and macOS")


def run(*command, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that the checkout gets no build folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def script(wheel, tmp_path_factory) -> Path:
    """The console script in an environment of its own, which sees the libraries of this one and no checkout."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    # A plain line: packages that are installed in editable mode there would need more, and are not seen.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "prune-gym"


@pytest.fixture
def elsewhere(tmp_path) -> dict:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {"cwd": tmp_path, "env": {**environment, "PRUNE_GYM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}}


def test_the_wheel_has_types_and_data_of_every_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert any(name.startswith("prune_gym/assets/") and name.endswith(".safetensors") for name in names)
    assert "agents/amortised/pretrained.safetensors" in names
    assert "benchmarks/configs/digits_resnet20.yaml" in names
    assert any(name.startswith("benchmarks/report/templates/") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_the_demo_runs_by_the_console_script_and_a_configuration_is_found_by_its_name(script, elsewhere):
    quick = ("pruning.method=hobs-uniform", "pruning.finetune.epochs=0", "pruning.reconstruction.steps=0")
    shorter = ("pruning.hobs.num_batches_sensitivity=1", "experiment.save_dir=out", "experiment.random_seeds=[0]")
    run(script, "run", "--config", "digits_resnet20", "--threads", "1", *quick, *shorter, **elsewhere)
    result = json.loads((elsewhere["cwd"] / "out" / "seed_0" / "result.json").read_text())
    assert result["final"]["accuracy"] > 0.5
    assert "prune-gym" in run(script, "--version", **elsewhere).stdout


def test_a_folder_of_the_users_named_like_a_package_is_blamed(script, elsewhere):
    (elsewhere["cwd"] / "agents").mkdir()
    (elsewhere["cwd"] / "agents" / "__init__.py").write_text("")
    hiding = {**elsewhere, "env": {**elsewhere["env"], "PYTHONPATH": str(elsewhere["cwd"])}}
    done = subprocess.run([str(script), "tasks"], capture_output=True, text=True, **hiding)
    assert done.returncode == 2
    assert "hides the package 'agents' of prune-gym" in done.stderr
    done = subprocess.run(
        [str(script), "tasks", "--import", "agents.mine"], capture_output=True, text=True, **elsewhere
    )
    assert done.returncode == 2
    assert "your agents/ has the name of a package of prune-gym" in done.stderr


def test_the_extra_named_all_has_everything_users_can_add():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: set(text.split()) for name, text in setup["options.extras_require"].items()}
    assert {"tensorboard", "ray", "timm", "onnx", "all"} <= set(extras)
    assert extras["all"] == set().union(*(extras[name] for name in extras if name not in ("all", "docs", "test")))
