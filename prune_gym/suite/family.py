"""``HOBSPruneFamily-v0``: a network of the bench an episode."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hessian.support.names import unknown
from prune_gym.bench.networks import load_networks, network_names
from prune_gym.bench.problem import BenchProblem
from prune_gym.bench.protocol import LEAST_GAIN, contests
from prune_gym.envs.hobs_prune import HOBSPruneEnv
from prune_gym.envs.observation import BOUND, GLOBALS, ObservationLayout
from prune_gym.envs.render import RENDER_MODES
from prune_gym.problem.features import FeatureSet

MASK = "present"
"""Feature that is 1 for a layer of the network and 0 for padding."""


class HOBSPruneFamilyEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Structured pruning of a family of networks as a contextual decision problem.

    ## Description

    Every episode is one of :class:`prune_gym.envs.hobs_prune.HOBSPruneEnv` on another network of the bench
    (:mod:`prune_gym.bench`), scored by its surrogate, at one of the protocol's targets. An agent that learns here is
    asked for what no search on a single network can give: good plans for networks it never saw.

    ## Action Space

    `Box(-1, 1, (M,), float32)`, one entry a layer of the network, as in `HOBSPrune-v0`; M is the largest number of
    layers in the bench, and entries beyond the network's layers are ignored.

    ## Observation Space

    `Box(-10, 10, (M * (F + 1) + M + 5,), float32)`; `env.unwrapped.layout` names every slice:

    | Index | Meaning | Min | Max |
    | --- | --- | --- | --- |
    | l * (F + 1) + f | feature f of layer l, standardised across layers; 0 for padding | -10 | 10 |
    | l * (F + 1) + F | mask: 1 for a layer of the network, 0 for padding | 0 | 1 |
    | M * (F + 1) + l | pruning ratio of layer l now; 0 for padding | 0 | 1 |
    | M * (F + 1) + M | the five globals of `HOBSPrune-v0` | -10 | 10 |

    ## Rewards

    Those of `HOBSPrune-v0`, divided by what the best plan known for this network and target gains over the knapsack's:
    under the hard constraint and started at the knapsack the return is the normalised score, 0 for staying and 1 for
    the best plan known. `normalised=False` leaves them as they are.

    ## Starting State

    Network and target are drawn evenly from the split's contests: the targets at which there is something to gain.
    `reset(options={"network": "plain-07", "target": 0.85})` names either; with `normalised=False` any target will do.

    ## Episode End

    Terminated after `horizon` moves. Never truncated.

    ## Information

    Keys of `HOBSPrune-v0`, with `kept` padded by 0 to M, and `network` (its name).

    ## Arguments

    ```python
    import gymnasium as gym
    import prune_gym

    env = gym.make("HOBSPruneFamily-v0", split="train")
    ```

    | Parameter | Type | Default | Description |
    | --- | --- | --- | --- |
    | `split` | str | `"train"` | `"train"`, `"validation"` or `"test"` |
    | `networks` | names | None | these networks instead of a split |
    | `normalised` | bool | True | rewards in units of what can be gained |
    | `path` | str | the package's | file of networks |
    | others | | `constraint="hard"` | of `HOBSPrune-v0`: `constraint`, `reward`, `features`, `horizon`, ... |

    ## Version History

    * v0: initial version.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        split: str = "train",
        networks: Sequence[str] | None = None,
        *,
        normalised: bool = True,
        path: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        bench = load_networks(path)
        self.networks = tuple(network_names(split, path) if networks is None else networks)
        for name in self.networks:
            if name not in bench:
                raise ValueError(unknown("network of the bench", name, sorted(bench)))
        if not self.networks:
            raise ValueError(f"split {split!r} of the bench has no networks")
        self.normalised = normalised
        self.settings = {"constraint": "hard", "fidelity": "surrogate", **settings}
        self.render_mode = self.settings.get("render_mode")
        self.most_layers = max(network.num_layers for network in bench.values())
        names = FeatureSet.of(self.settings.get("features", "kfac")).names
        self.layout = ObservationLayout(self.most_layers, (*names, MASK))
        self.observation_space = spaces.Box(-BOUND, BOUND, (self.layout.size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.most_layers,), np.float32)
        self._path = path
        self._members: dict[str, _Member] = {}
        self._fresh: set[str] = set()
        self._member: _Member | None = None
        self._unit = 1.0

    # ------------------------------------------------------------------ Gymnasium

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a network and a target, and start an episode there.

        Args:
            seed: seeds the draws and restores lambda on all networks.
            options: ``{"network": name, "target": x}``, either or both.

        Raises:
            ValueError: an unknown option or network, a target that cannot be, or networks without any contest.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._fresh = set(self.networks)
        wanted = dict(options or {})
        for key in wanted:
            if key not in ("network", "target"):
                raise ValueError(unknown("reset option", key, ("network", "target")))
        member = self._draw(wanted.get("network"))
        target = self._target(member, wanted.get("target"))
        restart = int(self.np_random.integers(2**31)) if member.name in self._fresh else None
        self._fresh.discard(member.name)
        self._member = member
        self._unit = member.units.get(target, 1.0) if self.normalised else 1.0
        observation, info = member.env.reset(seed=restart, options={"target": target})
        return self._padded(observation), self._info(info)

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move the pruning ratios of the network's layers.

        Args:
            action: [M], moves in [-1, 1]; those of padding are ignored.

        Raises:
            RuntimeError: no ``reset`` yet, or the episode is over.
            ValueError: an action of another shape, or with NaN or infinite entries.
        """
        if np.shape(action) != self.action_space.shape:
            raise ValueError(f"an action has shape {self.action_space.shape}; got {np.shape(action)}")
        own = np.asarray(action)[: self.pruning.problem.num_layers]
        observation, reward, terminated, truncated, info = self.pruning.step(own)
        return self._padded(observation), reward / self._unit, terminated, truncated, self._info(info)

    def render(self) -> Any:
        """The current network's plan, see :meth:`prune_gym.envs.base.PruningEnv.render`."""
        return self.pruning.render()

    # ------------------------------------------------------------------ the current network

    @property
    def pruning(self) -> HOBSPruneEnv:
        """The environment of the current network.

        Raises:
            RuntimeError: no ``reset`` yet.
        """
        if self._member is None:
            raise RuntimeError("there is no network yet; call reset() first")
        return self._member.env

    @property
    def network(self) -> str:
        """Name of the current network."""
        return str(self.pruning.problem.name).removeprefix("bench/")

    # ------------------------------------------------------------------ draws

    def _draw(self, name: str | None) -> _Member:
        if name is not None:
            if name not in load_networks(self._path):
                raise ValueError(unknown("network of the bench", name, self.networks))
            return self._of(name)
        # Drawn again where nothing can be gained, so that what is drawn does not depend on who was looked at before.
        while True:
            member = self._of(self.networks[int(self.np_random.integers(len(self.networks)))])
            if member.units or not self.normalised:
                return member
            if not any(name not in self._members or self._members[name].units for name in self.networks):
                raise ValueError("none of these networks has a contest; normalised=False asks for any target")

    def _of(self, name: str) -> _Member:
        if name not in self._members:
            self._members[name] = _Member(name, self._path, self.settings)
        return self._members[name]

    def _target(self, member: _Member, wanted: float | None) -> float:
        if wanted is None:
            known = sorted(member.units) or [member.env.targets.low]
            return known[int(self.np_random.integers(len(known)))]
        if self.normalised and wanted not in member.units:
            listed = ", ".join(f"{target:g}" for target in sorted(member.units)) or "none"
            raise ValueError(
                f"bench/{member.name} has no contest at target {wanted!r}, only at {listed}; "
                "normalised=False asks for any target"
            )
        return wanted

    # ------------------------------------------------------------------ padding

    def _padded(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """An observation of the current network with all rows there may be."""
        layers, width = self.pruning.problem.num_layers, self.layout.feature_dim
        padded = np.zeros(self.layout.size, dtype=np.float32)
        rows = padded[: self.most_layers * width].reshape(self.most_layers, width)
        rows[:layers, :-1] = observation[: layers * (width - 1)].reshape(layers, width - 1)
        rows[:layers, -1] = 1.0
        ratios = self.most_layers * width
        padded[ratios : ratios + layers] = observation[layers * (width - 1) : -len(GLOBALS)]
        padded[-len(GLOBALS) :] = observation[-len(GLOBALS) :]
        return padded

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        kept = np.zeros(self.most_layers, dtype=np.int64)
        kept[: len(info["kept"])] = info["kept"]
        return {**info, "kept": kept, "network": self.network}


class _Member:
    """One network's environment, and what there is to gain at its targets."""

    def __init__(self, name: str, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self.name = name
        problem = BenchProblem.shared(name, path)
        self.env = HOBSPruneEnv(problem=problem, **settings)
        self.units = {
            target: max(scale.best - scale.knapsack, LEAST_GAIN) for target, scale in contests(problem).items()
        }
