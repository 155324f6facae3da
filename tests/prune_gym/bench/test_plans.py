import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from prune_gym.bench.plans import load_plans, write_plans
from tests.prune_gym.bench.synthetic import network, plans


def test_plans_survive_their_file(tmp_path):
    made = {network(index, False).name: plans(network(index, False), 30 + index) for index in (0, 3)}
    loaded = load_plans(write_plans(tmp_path / "plans.parquet", made.values()))
    assert set(loaded) == set(made)
    for name, entry in made.items():
        np.testing.assert_array_equal(loaded[name].kept, entry.kept)
        assert loaded[name].source == entry.source
        for field in ("target", "flops_reduction", "metrics", "test_metrics", "layer_errors", "reconstructed"):
            np.testing.assert_allclose(getattr(loaded[name], field), getattr(entry, field), rtol=1e-6)


def test_some_plans_are_selected():
    entry = plans(network(0, False), 10)
    assert len(entry.select(slice(2, 5))) == 3
    np.testing.assert_array_equal(entry.select(entry.kept[:, 0] > 3).kept, entry.kept[entry.kept[:, 0] > 3])


def test_a_file_that_is_no_table_of_plans_is_refused(tmp_path):
    path = tmp_path / "plans.parquet"
    with pytest.raises(FileNotFoundError, match="no measured plans"):
        load_plans(path)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="no Parquet file"):
        load_plans(path)
    parquet.write_table(pyarrow.table({"network": ["a"]}), path)
    with pytest.raises(ValueError, match="lacks the columns"):
        load_plans(path)
    good = parquet.read_table(write_plans(path, [plans(network(0, False), 5)]))
    place = good.column_names.index("soft")
    parquet.write_table(good.set_column(place, "soft", pyarrow.array([2.0] * 5, pyarrow.float32())), path)
    with pytest.raises(ValueError, match="accuracies of metrics"):
        load_plans(path)


def test_a_number_that_was_changed_is_noticed_whoever_wrote_the_file(tmp_path):
    path = tmp_path / "plans.parquet"
    good = parquet.read_table(write_plans(path, [plans(network(0, False), 5)]))
    place = good.column_names.index("soft")
    changed = good.set_column(place, "soft", pyarrow.array([0.25] * 5, pyarrow.float32()))
    for table in (changed, good.slice(1), good.replace_schema_metadata(None)):
        parquet.write_table(table, path)
        with pytest.raises(ValueError, match="does not match its checksum"):
            load_plans(path)


def test_two_entries_of_one_network_are_refused(tmp_path):
    entry = plans(network(0, False), 5)
    with pytest.raises(ValueError, match="twice"):
        write_plans(tmp_path / "plans.parquet", [entry, entry])
