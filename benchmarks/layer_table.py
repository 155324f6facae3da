"""``prune-gym layers``: what can be pruned of a network, what stays whole, where and why.

prune-gym layers TASK | --config FILE
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.common.arguments import command_parser
from benchmarks.common.columns import Column, Columns, Value, percent_column
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import OptionError
from benchmarks.common.modules import import_modules
from benchmarks.common.numbers import count
from benchmarks.common.table import Table, report_console

if TYPE_CHECKING:
    from hessian.channels.group import ChannelGroup, PinnedChannels
    from hessian.discovery.discover import Discovery
    from prune_gym.cost.model import CostModel

LAYERS: Columns = (
    "layer",
    "channels",
    "units",
    *(percent_column(name, 1) for name in ("FLOPs, %", "parameters, %")),
    Column("made by", wide=True),
    Column("read by", wide=True),
)
PINNED: Columns = ("made by", "stay", "of", Column("where", align="left"), Column("why", wide=True))


@reports_errors()
def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """List the layers of a task's network.

    Args:
        argv: arguments; absent means those of the process.
        prog: name of the command in the help text.

    Returns:
        Exit code: 0 done, 2 bad input.

    Raises:
        OptionError: not exactly one of task and configuration, or an unknown task; ends the command with exit code 2.
    """
    what = "List what can be pruned of a network, and what cannot."
    parser = command_parser("benchmarks.layer_table", what, "import", prog=prog)
    parser.add_argument("task", nargs="?", metavar="TASK", help="name of a task (prune-gym tasks lists them)")
    parser.add_argument("--config", metavar="FILE", help="YAML configuration whose task is meant")
    parser.add_argument("--no-verify", action="store_true", help="do not cut the network for trial")
    arguments = parser.parse_args(argv)
    import_modules(arguments.imports)
    from benchmarks.settings.reading import load_config
    from hessian.discovery.discover import discover
    from prune_gym.cost.model import CostModel
    from prune_gym.tasks.registry import structure_of, task_names

    if (arguments.task is None) == (arguments.config is None):
        raise OptionError("give either a task's name or --config FILE")
    name = arguments.task or load_config(arguments.config, []).task_name
    if name not in task_names():
        raise OptionError(f"unknown task {name!r}; `prune-gym tasks` lists those there are")
    structure = structure_of(name)
    example = structure.example_input[:1]
    found = discover(structure.model, example, structure.ignored_layers, verify=not arguments.no_verify)
    cost = CostModel(found.groups, structure.model, example)
    print_layers(report_console(Console()), name, found, cost)
    return 0


def print_layers(console: Console, name: str, found: Discovery, cost: CostModel) -> None:
    """Print a row for every layer, and one for everything that stays.

    Args:
        console: where to.
        name: what the network is called.
        found: its layers and pinned channels.
        cost: its cost model.
    """
    caption = "FLOPs and parameters: their shares that go if one unit of the layer is left and all other layers stay"
    rows = [_layer(index, group, cost) for index, group in enumerate(found.groups)]
    console.print(Table(f"layers of {name}", LAYERS, rows, caption))
    console.print(Table("channels that stay", PINNED, [_pinned(stay) for stay in found.pinned]))


def _layer(index: int, group: ChannelGroup, cost: CostModel) -> list[Value]:
    kept = cost.units.copy()
    kept[index] = 1
    flops, params = float(cost.reduction(kept)), 1.0 - float(cost.params(kept)) / cost.dense_params
    makers = ", ".join(member.module for member in group.producers)
    readers = ", ".join(member.module for member in (*group.consumers, *group.silent))
    return [group.name, group.size, group.num_units, flops, params, makers, readers]


def _pinned(stay: PinnedChannels) -> list[Value]:
    return [stay.name, count(stay.count), count(stay.size), stay.where, stay.reason]


if __name__ == "__main__":
    sys.exit(main())
