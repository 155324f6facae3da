"""R-SPAR's PPO against Stable-Baselines3's on a standard control task, with the same steps and seeds.

    python -m benchmarks.studies.evidence.ppo_parity [--steps 100000] [--seeds 0 1 2 3 4] [--out DIR] [--json FILE]

The task is :mod:`benchmarks.studies.evidence.pendulum`. Every run is a file of its own in ``DIR/cells``: the same
command goes on with what is left.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.arguments import check_distinct, positive
from benchmarks.common.columns import Column, Interval
from benchmarks.common.command import reports_errors
from benchmarks.common.table import Table
from benchmarks.studies.engine.command import INTERRUPTED, run_command, study_parser
from benchmarks.studies.engine.store import CellFiles
from benchmarks.studies.engine.study import Report, Result

if TYPE_CHECKING:
    import torch

OUT = Path("results/ppo_parity")
AGENTS = ("rspar", "sb3")
MEASURED = ("agent", "seed", "mean_return", "seconds")
"""Columns told of every run."""


@reports_errors(ValueError, ImportError, interrupted=INTERRUPTED)
def main(argv: Sequence[str] | None = None) -> int:
    """Compare from the command line, or what is left of it.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted.
    """
    module, what = "benchmarks.studies.evidence.ppo_parity", "R-SPAR's PPO against SB3's."
    parser = study_parser(module, what, "seeds", "json")
    parser.set_defaults(seeds=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=positive, default=100_000, help="environment steps a run (default: 100000)")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help=f"where finished runs are kept (default: {OUT})"
    )
    options = parser.parse_args(argv)
    check_distinct("--seeds", options.seeds)
    study = partial(ParityStudy, options.out, options.steps, tuple(options.seeds))
    return run_command(study, options, threads=1, copy_to=options.json)


@dataclass(frozen=True)
class Cell:
    """A training.

    Attributes:
        agent: one of :data:`AGENTS`.
        seed: of everything in it.
    """

    agent: str
    seed: int

    @property
    def name(self) -> str:
        """Name in messages and of the file."""
        return f"{self.agent}-seed{self.seed}"


@dataclass(frozen=True)
class ParityStudy:
    """Both implementations, seed by seed.

    Attributes:
        folder: where results are.
        steps: environment steps a run.
        seeds: of the runs.
        device: unused: both learn on the CPU.
    """

    folder: Path
    steps: int
    seeds: tuple[int, ...]
    device: torch.device | None = None

    name = "ppo_parity"

    @property
    def store(self) -> CellFiles:
        """A file a run in ``cells``."""
        return CellFiles(self.folder)

    def open(self) -> None:
        """Refuse to mix runs of other settings or versions; more seeds are welcome.

        Raises:
            ConfigError: the folder holds runs of others; what differs is named.
        """
        from benchmarks.studies.evidence import pendulum

        current, stored = pendulum.settings(self.steps), self.store.study()
        changed = [] if stored is None else [key for key in current if stored.get(key) != current[key]]
        self.store.open(current, changed, option="--out")

    def cells(self) -> list[Cell]:
        """Return all trainings."""
        return [Cell(agent, seed) for seed in self.seeds for agent in AGENTS]

    def run(self, cell: Cell) -> Result:
        """Return what an agent has learned."""
        from benchmarks.studies.evidence import pendulum

        return asdict(pendulum.run(cell.agent, cell.seed, self.steps))

    def in_short(self, result: Result) -> str:
        """Return the mean return of a run."""
        return f"{result['mean_return']:.1f}"

    def report(self, results: Mapping[Cell, Result]) -> Report:
        """Return interquartile means, and how probably a run of R-SPAR is the better one."""
        runs = [{key: result[key] for key in MEASURED} for result in results.values()]
        found = summary(runs)
        count = len({run["seed"] for run in runs})
        return Report([parity_table(found, self.steps, count)], {"steps": self.steps, "runs": runs, **found})


def summary(runs: Sequence[Result]) -> dict[str, Any]:
    """Return interquartile means with their intervals, and the probability that a run of R-SPAR is the better one."""
    from benchmarks.stat_tests.aggregates import interquartile_mean, probability_of_improvement, stratified_bootstrap

    returns = {agent: [run["mean_return"] for run in runs if run["agent"] == agent] for agent in AGENTS}
    known = {agent: found for agent, found in returns.items() if found}
    estimates = {agent: asdict(stratified_bootstrap(interquartile_mean, [found])) for agent, found in known.items()}
    if len(known) < len(AGENTS):
        return {"iqm": estimates, "probability_rspar_is_better": None}
    chance = stratified_bootstrap(probability_of_improvement, [returns["rspar"]], [returns["sb3"]])
    return {"iqm": estimates, "probability_rspar_is_better": asdict(chance)}


def parity_table(found: Mapping[str, Any], steps: int, runs: int) -> Table:
    """Return the table of what :func:`summary` found."""
    chance = found["probability_rspar_is_better"]
    return Table(
        f"Pendulum-v1, {steps:,} steps, {runs} runs",
        ("agent", Column("return [95 %]", ".1f")),
        [[agent, Interval.of(estimate)] for agent, estimate in found["iqm"].items()],
        "interquartile means" + (f"; P(R-SPAR's is better) {chance['value']:.2f}" if chance else ""),
    )


if __name__ == "__main__":
    sys.exit(main())
