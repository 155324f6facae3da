"""Dense networks of the finished cells of a study: cells of two of them never end up in one mean.

Dense networks are trained where they are missing, so the same task may have another network on another machine. Every
cell records a digest of its network and images (:attr:`prune_gym.problem.PruningProblem.network_key`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.settings.source import ConfigError

NETWORK = "network"
"""Key of the digest in a cell; cells written before there were digests lack it."""

WEIGHTS = "weights"
"""Key of the name of a cell's own dense weights, where they are not the task's."""

SHORT = 12
"""Digits of a digest that messages show."""


class MeasuredNetworks:
    """The network behind the cells of a study, one for everything that is called alike.

    Args:
        folder: of the study, for messages.
        recorded: (name, digest) of every finished cell (:func:`dense_name`): what the cell says it was measured on,
            None where it does not say.

    Raises:
        ConfigError: the cells of one name are of several networks, or some of them do not say.
    """

    def __init__(self, folder: Path, recorded: Iterable[tuple[str, str | None]]) -> None:
        self._folder = folder
        self._digests: dict[str, str | None] = {}
        for name, digest in recorded:
            known = self._digests.setdefault(name, digest)
            if digest != known:
                raise ConfigError(
                    f"{folder} mixes cells of {name!r} measured on different networks or images ({_short(known)} and "
                    f"{_short(digest)}), whose means would say nothing; move those of one of them elsewhere "
                    f"(a cell names its own under {NETWORK!r})"
                )

    def admit(self, name: str, digest: str | None) -> None:
        """Let cells measured on a network join the others of their name.

        Args:
            name: as the cells are called.
            digest: of what is about to be measured on; None where that is not known.

        Raises:
            ConfigError: the finished cells are of another network, or some cells of the folder do not say of which.
        """
        known = self._digests.setdefault(name, digest)
        unknown = [name for name, found in self._digests.items() if found is None]
        if unknown:
            raise ConfigError(
                f"{self._folder} holds results of {unknown[0]!r} that do not say which network they were measured on "
                f"(an earlier version wrote them; {name!r} is {_short(digest)} now), so nothing can be added to them; "
                "they can still be tabled, new ones go to another folder"
            )
        if known != digest:
            raise ConfigError(
                f"{self._folder} holds results of {name!r} measured on the network {_short(known)}, but it is "
                f"{_short(digest)} now: other dense weights or images, as after training it again; bring back the "
                "former, choose another folder, or delete those results"
            )


def dense_name(cell: Mapping[str, Any], task: str = "") -> str:
    """Name of a cell's dense network: its weights where it has its own, else the task.

    Args:
        cell: of any study.
        task: for cells that do not name it.
    """
    return str(cell.get(WEIGHTS) or cell.get("task", task))


def comparable_sets(
    folder: Path, cells: Sequence[Mapping[str, Any]]
) -> list[tuple[tuple[str, ...], list[Mapping[str, Any]]]]:
    """Cells of a folder by what they may be averaged with: those of the task's own weights apart from the others.

    Args:
        folder: of the study, for messages.
        cells: all there are, failed ones too.

    Returns:
        One or two sets: names of their dense weights, one a seed and none for the task's own, and cells.

    Raises:
        ConfigError: cells of one name are of several networks, or a seed has several dense weights.
    """
    done = [cell for cell in cells if "error" not in cell]
    MeasuredNetworks(folder, ((dense_name(cell, "the task"), cell.get(NETWORK)) for cell in done))
    own = [cell for cell in cells if cell.get(WEIGHTS)]
    names: dict[Any, str] = {}
    for cell in own:
        seed, name = cell.get("seed"), str(cell[WEIGHTS])
        known = names.setdefault(seed, name)
        if name != known:
            raise ConfigError(
                f"{folder} holds cells of seed {seed} with the dense weights {known!r} and {name!r}, and does not say "
                "which of them belong to those of other seeds; move one of them elsewhere"
            )
    shared = [cell for cell in cells if not cell.get(WEIGHTS)]
    sets = [((), shared), (tuple(dict.fromkeys(names.values())), own)]
    return [(weights, members) for weights, members in sets if members]


def _short(digest: str | None) -> str:
    return "an unknown one" if digest is None else digest[:SHORT]
