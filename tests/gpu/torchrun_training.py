"""What ``torchrun`` runs in :mod:`tests.gpu.test_torchrun`: fine-tuning; each process writes what it ends with."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch

from hessian.support.distributed import torchrun_group
from prune_gym.support.device import resolve_device
from prune_gym.training import fine_tune
from tests.conftest import TinyResNet, blob_split


def main(folder: str, where: str) -> None:
    """Fine-tune in all processes and write what each ends with.

    Args:
        folder: for ``weights<rank>.pt`` and ``history<rank>.json``.
        where: ``"cpu"``, or ``"cuda"`` for a GPU a process.
    """
    torch.set_num_threads(1)
    with torchrun_group() as workers:
        device = resolve_device("cpu" if where == "cpu" else workers.rank)
        torch.manual_seed(0)
        model = TinyResNet().to(device)
        history = fine_tune(model, None, blob_split(48, seed=1), epochs=1, batch_size=24, lr=1e-3, seed=0)
        torch.save(
            {name: tensor.cpu() for name, tensor in model.state_dict().items()}, f"{folder}/weights{workers.rank}.pt"
        )
        with open(f"{folder}/history{workers.rank}.json", "w") as file:
            json.dump([workers.size, *(asdict(record) for record in history)], file)


if __name__ == "__main__":
    main(*sys.argv[1:])
