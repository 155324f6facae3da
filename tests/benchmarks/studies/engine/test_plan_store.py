"""Stored plans: what is damaged is measured again, and nothing else is believed."""

import json

import pytest

from benchmarks.studies.engine.plan_store import PlanStore
from prune_gym.problem.problem import PruningProblem
from tests.prune_gym.tiny import tiny_task


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return lambda: PruningProblem(tiny_task(), device="cpu", cache_dir=cache).load()


@pytest.fixture
def stored(make, tmp_path):
    problem = make()
    store = PlanStore(tmp_path, problem, "writer")
    for count in (4, 5, 6):
        problem.evaluator.evaluate([count] * problem.num_layers)
    store.sync()
    return tmp_path, store.measurements, next(tmp_path.rglob("writer.jsonl"))


def test_stored_plans_are_free_for_the_next(make, stored):
    folder, measurements, _ = stored
    again = PlanStore(folder, make(), "reader")
    assert again.measurements == measurements
    assert len(measurements) == 3


DAMAGE = {
    "a byte that is no text": lambda line: line.replace(b"kept", b"k\xffpt"),
    "another accuracy": lambda line: line.replace(b'"accuracy": 0.', b'"accuracy": 7.', 1),
    "not a number": lambda line: line.replace(b'"loss": ', b'"loss": NaN, "x": '),
    "a negative count": lambda line: line.replace(b"[4", b"[-5"),
    "a layer too many": lambda line: line.replace(b"[4", b"[1, 4"),
    "torn": lambda line: line[: len(line) // 2],
    "no checksum": lambda line: json.dumps({k: v for k, v in json.loads(line).items() if k != "sha256"}).encode(),
    "endless": lambda line: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_line_is_left_out_and_the_file_is_named(make, stored, damage, caplog):
    folder, measurements, path = stored
    first, *others = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([damage(first), *others]) + b"\n")
    found = PlanStore(folder, make(), "reader").measurements
    assert found == {plan: row for plan, row in measurements.items() if plan[0] != 4}
    assert "1 of" in caplog.text
    assert "writer.jsonl" in caplog.text


def test_plans_larger_than_the_network_are_no_plans_of_it(make, stored):
    folder, measurements, path = stored
    from benchmarks.common.signed_table import DIGITS
    from hessian.support.files import sha256_of

    row = {"kept": [999] * 4, "accuracy": 0.5, "soft_accuracy": 0.5, "loss": 1.0, "seconds": 0.1}
    with open(path, "a") as file:
        file.write(json.dumps({**row, "sha256": sha256_of(row)[:DIGITS]}) + "\n")
    assert PlanStore(folder, make(), "reader").measurements == measurements
