"""``HOBSPrune-v0``: choose how many channels of every layer go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.cost.limits import FloatArray, IntArray
from prune_gym.envs.base import Info, Observation, PruningEnv
from prune_gym.envs.constraint import make_constraint
from prune_gym.envs.settings import MoveSettings

if TYPE_CHECKING:
    from prune_gym.envs.fidelity import Problem
    from prune_gym.tasks.task import PruningTask


class HOBSPruneEnv(PruningEnv):
    """Structured pruning of a trained network as a decision problem.

    ## Description

    A trained convolutional network has L prunable layers. A *plan* says how many units (channels) of each layer stay;
    which ones go is settled by the H-OBS elimination order. The agent moves all layers' pruning ratios at once and is
    rewarded for what the small network gains over the plan it started from: accuracy on data the network never saw, at
    a required reduction of FLOPs. A candidate's surviving weights are repaired in closed form
    (:mod:`prune_gym.measuring.repair`) and the small network is run; nothing is fine-tuned. By default an episode is a
    single move (a contextual bandit).

    ## Action Space

    `Box(-1, 1, (L,), float32)`, one entry a layer:

    | Index | Meaning | Min | Max |
    | --- | --- | --- | --- |
    | l | move of layer l's pruning ratio in logit space: `logit(ratio) += action_scale * action` | -1 | 1 |

    The result is rounded to legal counts and clipped to `max_pruning_ratio`. Action 0 stays. Entries outside [-1, 1]
    are clipped.

    ## Observation Space

    `Box(-10, 10, (L * F + L + 5,), float32)`; `env.unwrapped.layout` names every slice:

    | Index | Meaning | Min | Max |
    | --- | --- | --- | --- |
    | l * F + f | feature f of layer l, standardised across layers (`features`) | -10 | 10 |
    | L * F + l | pruning ratio of layer l now | 0 | 1 |
    | L * F + L | accuracy lost against the dense network | -1 | 1 |
    | L * F + L + 1 | FLOPs reduction now | 0 | 1 |
    | L * F + L + 2 | target FLOPs reduction | 0 | 1 |
    | L * F + L + 3 | penalty weight lambda | 0 | 10 |
    | L * F + L + 4 | progress: moves made / horizon | 0 | 1 |

    ## Rewards

    The score of a plan is `soft accuracy - lambda * violation`, where soft accuracy is the mean probability of the true
    class on the reward split and `violation = max(0, target - reduction) / target`. The reward of a move is the
    change of the score, so the return is the gain over the start plan. `lambda = lambda_0 * exp(-tau * drop)` with
    the accuracy `drop` of the last plan of the episode before; it changes between episodes only, and `reset(seed=...)`
    restores `lambda_0`. Other scores: see `reward` below and :mod:`prune_gym.envs.reward`.

    ## Starting State

    A plan on the target: the knapsack solution of the predicted loss curves, or equal ratios (`start`). A range of
    targets is sampled at every reset; `reset(options={"target": 0.8})` sets the target of one episode.

    ## Episode End

    Terminated after `horizon` moves. Never truncated.

    ## Information

    `reset` and `step` return the same keys: `accuracy` (top-1), `soft_accuracy`, `loss`, `flops_reduction`,
    `target_flops_reduction`, `violation`, `score`, `lambda`, `is_success` (the target is met and the plan scores above
    the start), `measured_evaluations` (distinct plans measured through this environment and its forks), `kept`
    (int64 [L]) and `rewards` (the parts of the last reward).

    ## Arguments

    ```python
    import gymnasium as gym
    import prune_gym

    env = gym.make("HOBSPrune-v0", task="digits-resnet20", target_flops_reduction=0.9)
    ```

    | Parameter | Type | Default | Description |
    | --- | --- | --- | --- |
    | `task` | str or PruningTask | `"digits-resnet20"` | what is pruned; `"bench/NAME"` is of the bench |
    | `target_flops_reduction` | float or (low, high) | the task's | required reduction, or a range sampled at reset |
    | `constraint` | str | `"soft"` | `"soft"`: a penalty; `"hard"`: every plan is projected onto the target |
    | `reward` | str | `"accuracy_flops"` | `..._fixed`, `top1_flops`, `amc_accuracy`, `amc_flops`, `latency` |
    | `fidelity` | str | `"measured"` | `"predicted"`: by predicted losses; `"surrogate"`: on the bench |
    | `repair` | str | `"sequential"` | of what stays; `sequential_fast`, `reconstructed`, `closed_form`, `none` |
    | `judge` | str | `"labels"` | what plans are held to; `dense`: agreement and KL divergence, without labels |
    | `features` | str or names | `"kfac"` | `"cost"` (no curvature), `"amc"` (AMC's eleven), or names |
    | `horizon` | int | 1 | moves an episode |
    | `start` | str | `"knapsack"` | or `"uniform"` |
    | `action_scale` | float | 2.0 | logits an action of 1 moves |
    | `max_pruning_ratio` | float | 0.95 | largest fraction of a layer's channels that may go |
    | `min_channels` | int | 1 | channels every layer keeps at least |
    | `round_to` | int | 1 | kept channels are a multiple of this (or all of them) |
    | `lambda_0`, `tau` | float | see :mod:`prune_gym.envs.reward` | penalty weight and its rate of adaptation |
    | `device` | str or int | the only GPU, else CPU | where candidates are measured |
    | `cache_dir` | str | the user's cache | folder of the computed curvature |
    | `task_options` | dict | None | arguments of `make_task`, for example `{"data_dir": ...}` |
    | `problem` | PruningProblem | None | a loaded problem to share; overrules what makes one (`task`, `repair`, ...) |
    | `render_mode` | str | None | `"ansi"`: the plan as a table of bars; `"rgb_array"`: as a picture |

    ## Version History

    * v0: initial version.
    """

    SETTINGS = MoveSettings
    settings: MoveSettings

    def __init__(
        self,
        task: str | PruningTask = "digits-resnet20",
        target_flops_reduction: float | Sequence[float] | None = None,
        *,
        problem: Problem | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(task, target_flops_reduction, problem=problem, **settings)
        self.constraint = make_constraint(self.settings.constraint)
        self.horizon = int(self.settings.horizon)
        self.action_scale = float(self.settings.action_scale)
        if self.reward.needs_hard_constraint and not self.constraint.projects:
            raise ValueError(
                "reward 'amc_accuracy' does not count FLOPs, so the dense network would win: use constraint='hard'"
            )

    def _action_entries(self) -> int:
        return self.problem.num_layers

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, Info]:
        """Move every layer's pruning ratio and look at the plan reached.

        Args:
            action: [L], moves in [-1, 1].

        Raises:
            RuntimeError: no ``reset`` yet, or the episode is over.
            ValueError: an action of another shape, or with NaN or infinite entries.
        """
        before = self._current
        if self._steps >= self.horizon:
            raise RuntimeError("the episode is over; call reset() before the next step()")
        after = self._visit(self.decode(self._checked(action)))
        self._past.append((before, before.kept))
        self._state = after
        self._steps += 1
        info = self._info(self._gains(before, after))
        return self._look_at(after.kept), after.score - before.score, self._steps >= self.horizon, False, info

    def _look_at(self, draft: IntArray) -> Observation:
        return self._observation(draft, self._steps / self.horizon)

    def decode(self, actions: FloatArray | NDArray[np.float32], kept: IntArray | None = None) -> IntArray:
        """The plans actions lead to, without measuring anything.

        Args:
            actions: [..., L], moves; clipped to [-1, 1].
            kept: int [L] (or [..., L]), the plan they start from; the current one if absent.

        Returns:
            int64 [..., L] kept units, projected onto the target under the hard constraint.
        """
        origin = self._current.kept if kept is None else np.asarray(kept)
        moves = np.minimum(np.maximum(np.asarray(actions, dtype=np.float64), -1.0), 1.0)
        logits = self.limits.logits(origin) + self.action_scale * moves
        return self.constraint.plan(logits, self.cost, self.limits, self._target)
