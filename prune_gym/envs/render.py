"""Plans to look at: a table of bars as text, or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import IntArray

RENDER_MODES = ("ansi", "rgb_array")
"""Render modes of the environments."""

_BAR = 24


def caption_of(accuracy: float, reduction: float, target: float, score: float) -> str:
    """One line about a plan: what it scores, and where it stands to the target."""
    return f"accuracy {accuracy:.4f}   FLOPs reduction {reduction:.4f} (target {target:.4f})   score {score:+.4f}"


@dataclass(frozen=True, eq=False)
class PlanPicture:
    """One plan, ready to be drawn.

    Attributes:
        names: the layers' names.
        kept: int [L], kept units.
        units: int [L], all units.
        caption: one line about the plan.
    """

    names: Sequence[str]
    kept: IntArray
    units: IntArray
    caption: str

    def drawn(self, mode: str) -> str | NDArray[np.uint8]:
        """The plan in one of :data:`RENDER_MODES`."""
        return self.text() if mode == "ansi" else self.pixels()

    def text(self) -> str:
        """One line a layer, and the caption."""
        width = max(map(len, self.names))
        rows = [
            f"{name:{width}}  {'█' * round(_BAR * kept / units):░<{_BAR}}  {kept:4d}/{units}"
            for name, kept, units in zip(self.names, self.kept.tolist(), self.units.tolist(), strict=True)
        ]
        return "\n".join([*rows, self.caption])

    def pixels(self) -> NDArray[np.uint8]:
        """A picture uint8 [480, 800, 3]: one bar a layer, kept units filled, the caption on top."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.8), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes: Any = figure.add_subplot()
        positions = np.arange(len(self.names))
        axes.bar(positions, self.units, color="#e6e9ef", width=0.8)
        axes.bar(positions, self.kept, color="#2f6fb5", width=0.8)
        axes.set_xticks(positions, self.names, rotation=60, ha="right", fontsize=8)
        axes.set_ylabel("units kept")
        axes.set_title(self.caption, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
