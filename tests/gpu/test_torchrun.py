"""Fine-tuning under ``torchrun``: two processes end with the same weights, on CPUs (Gloo) or a GPU each (NCCL)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
GPUS = torch.cuda.device_count()


@pytest.mark.parametrize(
    "where",
    [
        "cpu",
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs, there are {GPUS}")]
        ),
    ],
)
def test_two_processes_share_every_batch_and_end_with_the_same_weights(tmp_path, where):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # A machine with GPUs would be asked for NCCL.
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if where == "cpu" else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **hidden}
    script = str(Path(__file__).with_name("torchrun_training.py"))
    subprocess.run([*command, script, str(tmp_path), where], check=True, env=environment, cwd=ROOT, timeout=250)
    first, second = (torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    histories = [json.loads((tmp_path / f"history{rank}.json").read_text()) for rank in range(2)]
    assert histories[0] == histories[1]
    assert histories[0][0] == 2
