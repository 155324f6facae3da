"""The blocks of docs/sweeps.md run, each as a program."""

import os
import re
import subprocess
import sys

import pytest

from tests.pages import DOCS, ROOT, code_blocks

PAGE = DOCS / "sweeps.md"
TRAINING, NONE = "finetune: {epochs: 1}", "reconstruction: {steps: 0}, finetune: {epochs: 0}"


def run_block(number, folder):
    """Run a block from a file, because worker processes import it."""
    program = folder / "program.py"
    program.write_text(code_blocks(PAGE)[number])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sweep_of_the_page_runs(tmp_path):
    """As it stands but for the training, which would take minutes."""
    sweep = code_blocks(PAGE, "yaml")[0]
    assert sweep.count(TRAINING) == 1
    (tmp_path / "sweep.yaml").write_text(sweep.replace(TRAINING, NONE))
    assert run_block(0, tmp_path).startswith("4 rows, 0 failed; hobs-knapsack 0.9")
    assert (tmp_path / "results" / "sweep" / "timings.csv").is_file()


def test_the_pool_of_the_page_runs(tmp_path):
    best = run_block(1, tmp_path).split()
    assert all(0.5 < float(accuracy) <= 1 for accuracy in best)
    assert len(best) == 2


def test_every_option_of_the_page_exists(capsys):
    from benchmarks.sweep import command as sweep
    from benchmarks.sweep import validate

    for module in (sweep, validate):
        with pytest.raises(SystemExit):
            module.main(["--help"])
    shown = capsys.readouterr().out
    for option in set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text())):
        assert option in shown
