"""No search at all: the plans environments start at, as agents, for comparison."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym

from agents.interface.monitor import Callback, Monitor
from agents.interface.protocol import plannable
from agents.search.plan_chooser import PlanChooser


class StartPlanSearch(PlanChooser):
    """No search: the plan an environment with this start begins at, measured once."""

    start: str

    def learn(
        self,
        env: gym.Env,
        total_timesteps: int = 0,
        callback: Callback | None = None,
        progress_bar: bool = False,
        log_dir: str | Path | None = None,
    ) -> StartPlanSearch:
        """Measure the plan in `env`'s archive; `total_timesteps` is not used.

        Raises:
            TypeError: `env` is no pruning environment.
        """
        with Monitor(self.history, 1, callback, progress_bar, log_dir) as monitor:
            _, info = plannable(env).fork(start=self.start).reset(seed=0)
            self._actions.append(None)
            monitor.episode(0.0, info, self.num_timesteps)
            monitor.advance()
        return self


class KnapsackSearch(StartPlanSearch):
    """The plan of least summed predicted loss (:mod:`prune_gym.cost.knapsack`)."""

    start = "knapsack"


class UniformSearch(StartPlanSearch):
    """Equal pruning ratios in all layers."""

    start = "uniform"
