"""No search at all: the plans environments start at, as agents, for comparison."""

from __future__ import annotations

from agents.interface.learner import Environment
from agents.interface.monitor import Monitor
from agents.interface.protocol import plannable
from agents.search.plan_chooser import PlanChooser


class StartPlanSearch(PlanChooser):
    """No search: the plan an environment with this start begins at, measured once."""

    start: str

    def _meet(self, env: Environment, batch_size: int) -> None:
        plannable(env)

    def _run(self, env: Environment, total_timesteps: int, monitor: Monitor, batch_size: int) -> None:
        """Measure the plan in `env`'s archive; no step is taken."""
        _, info = plannable(env).fork(start=self.start).reset(seed=0)
        self._actions.append(None)
        monitor.episode(0.0, info, self.num_timesteps)
        monitor.advance()


class KnapsackSearch(StartPlanSearch):
    """The plan of least summed predicted loss (:mod:`prune_gym.allocation.knapsack`)."""

    start = "knapsack"


class UniformSearch(StartPlanSearch):
    """Equal pruning ratios in all layers."""

    start = "uniform"
