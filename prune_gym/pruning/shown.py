"""Progress that shows by itself: on a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

from rich.console import Console

from prune_gym.support.stage_progress import StageProgress


def progress_for(choice: bool | None) -> StageProgress:
    """Bars to draw on.

    Args:
        choice: True draws, False does not, None draws where somebody looks: on a terminal and in notebooks.
    """
    console = Console()
    seen = console.is_terminal or console.is_jupyter
    return StageProgress(console if (seen if choice is None else choice) else Console(quiet=True))
