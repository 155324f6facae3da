"""Evolution by level switches: what one layer gives, another gets back."""

from __future__ import annotations

import numpy as np

from agents.interface.protocol import positive
from agents.model.imagination import Imagination
from agents.search.base import Search


class LevelSwitchSearch(Search):
    """A (1 + lambda) evolution whose mutations switch levels between layers, as EvoPress does (Sieberling et al. 2025).

    A mutation raises one layer's pruning by a level and lowers another's, a few times over; the number of times is the
    smaller of two uniform draws, so that most children are close to their parent. Each child is brought onto the
    target, and the best of a generation replaces the parent where it is better. EvoPress compares children in several
    rounds on more and more images; here each is measured once, on all of them.

    Args:
        children: plans measured a generation (lambda).
        level: distance of two levels of a layer, in entries of an action.
        switches: most switches of a mutation.
        seed: of the mutations.

    Raises:
        ValueError: fewer than one child or switch.
    """

    def __init__(self, children: int = 8, level: float = 0.1, switches: int = 3, seed: int = 0) -> None:
        super().__init__(seed)
        if children < 1 or switches < 1:
            raise ValueError(f"children and switches must be at least 1, got {children} and {switches}")
        self.children, self.level, self.switches = children, positive("level", level), switches
        self._parent: np.ndarray | None = None
        self._parent_score = -np.inf
        self._born: list[tuple[float, np.ndarray]] = []

    def propose(self, view: Imagination) -> np.ndarray:
        """A child of the parent, clipped to [-1, 1]."""
        if self._parent is None:
            self._parent, self._parent_score = np.zeros(len(view.start)), view.best_score()
        child = self._parent.copy()
        layers = len(child)
        for _ in range(min(self.rng.integers(1, self.switches + 1, size=2))):
            # A single layer has no other to exchange with: bringing the child onto the target takes its step back.
            more, less = self.rng.choice(layers, size=2, replace=layers < 2)
            child[more] += self.level
            child[less] -= self.level
        return np.clip(child, -1.0, 1.0)

    def observe(self, action: np.ndarray, score: float) -> None:
        """Collect a child; the best of a full generation replaces the parent where it is better."""
        self._born.append((score, np.asarray(action, dtype=np.float64)))
        if len(self._born) < self.children:
            return
        score, action = max(self._born, key=lambda born: born[0])
        if score > self._parent_score:
            self._parent, self._parent_score = action, score
        self._born.clear()
