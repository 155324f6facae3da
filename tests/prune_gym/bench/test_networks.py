import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from prune_gym.bench.networks import BenchNetwork, bench_network, load_networks, network_names, write_networks
from tests.prune_gym.bench.synthetic import NAMES, network, networks


def test_networks_survive_their_file(bench_file):
    loaded = load_networks(bench_file)
    assert sorted(loaded) == sorted(NAMES)
    for index, name in enumerate(NAMES):
        made, found = network(index), loaded[name]
        assert found.description == made.description
        for key, array in made.arrays().items():
            np.testing.assert_array_equal(array, found.arrays()[key])
        kept = np.random.default_rng(0).integers(1, made.units + 1, (50, made.num_layers))
        np.testing.assert_array_equal(found.surrogate.predict(kept), made.surrogate.predict(kept))
        np.testing.assert_array_equal(found.flops_form(kept), made.flops_form(kept))


def test_equal_networks_give_equal_bytes(bench_file, tmp_path):
    again = write_networks(tmp_path / "again.safetensors", reversed(networks()))
    assert again.read_bytes() == bench_file.read_bytes()


def test_a_reference_plan_survives_its_file(tmp_path):
    made = BenchNetwork(**{**vars(network(0)), "references": {0.5: network(0).units // 2}})
    found = load_networks(write_networks(tmp_path / "a.safetensors", [made]))["plain-00"]
    assert found.references.keys() == {0.5}
    np.testing.assert_array_equal(found.references[0.5], made.units // 2)


def test_splits_name_their_networks(bench_file):
    assert network_names("train", bench_file) == ["plain-00", "plain-01"]
    assert network_names(None, bench_file) == sorted(NAMES)
    with pytest.raises(ValueError, match="did you mean 'train'"):
        network_names("trian", bench_file)
    with pytest.raises(KeyError, match="did you mean 'residual-00'"):
        bench_network("residual-0", bench_file)


def test_a_damaged_file_is_refused(bench_file, tmp_path):
    data = bytearray(bench_file.read_bytes())
    data[-9] ^= 1
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        load_networks(changed)
    short = tmp_path / "short.safetensors"
    short.write_bytes(bench_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        load_networks(short)
    other = tmp_path / "other.safetensors"
    safetensors_numpy.save_file({"a": np.zeros(3)}, other)
    with pytest.raises(ValueError, match="format"):
        load_networks(other)
    with pytest.raises(FileNotFoundError, match="no networks"):
        load_networks(tmp_path / "none.safetensors")


@pytest.mark.parametrize("array", ["units", "surrogate/places", "reference/plans", "features", "surrogate/knots"])
@pytest.mark.parametrize("value", [np.zeros(()), np.zeros((2, 2, 2)), np.full(3, np.nan), np.array([-5])])
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, monkeypatch, array, value):
    arrays = network(1).arrays()
    monkeypatch.setattr(BenchNetwork, "arrays", lambda self: {**arrays, f"plain-01/{array}": value})
    path = write_networks(tmp_path / "wrong.safetensors", [network(1)])
    with pytest.raises(ValueError, match=r"wrong\.safetensors.*plain-01"):
        load_networks(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("curves", (np.array([0.0, 2.0, 1.0]),), "one entry a unit"),
        ("features", np.zeros((2, 2)), "features"),
        ("dense", np.array([2.0, 0.5, 0.1, 0.9, 0.5, 0.1]), "accuracies"),
        ("references", {0.5: np.array([1])}, "reference"),
    ],
)
def test_numbers_that_cannot_be_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        BenchNetwork(**{**vars(network(0)), field: value})


def test_a_wrong_description_names_the_place():
    from prune_gym.bench import description

    entry = network(0).description.model_dump(mode="json")
    for key, value, message in (
        ("split", "tset", "split"),
        ("default_target", 1.5, "default_target"),
        ("name", "../etc", "name"),
        ("layer_names", ["a", "a", "b"], "one name"),
        ("held_out_kind", True, "held-out"),
        ("colour", "red", "colour"),
    ):
        with pytest.raises(ValueError, match=message):
            description.described(json.dumps([{**entry, key: value}]), "file")


def test_the_bench_needs_no_torch(bench_file):
    code = (
        "import sys, numpy as np\n"
        "from prune_gym.bench.problem import BenchProblem\n"
        f"problem = BenchProblem.named('bench/plain-01', {str(bench_file)!r})\n"
        "plan = problem.start_plan('knapsack', 0.6)\n"
        "assert problem.surrogate_metrics(plan).shape == (3,)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
