"""Every number of the README and of the docs, made with today's code.

    python -m benchmarks.studies.evidence [--part NAME ...] [--list] [--stale] [--minutes M] [--out DIR]
    python -m benchmarks.studies.evidence --check 10 [--seed N] [--tolerance X] [--quick M]

Without an option, every part that was made with other code than today's is made again, the quickest first. What a
stopped part had done is kept in ``--out``, and the same command goes on; a finished part goes to ``benchmarks/results``
and into its ledger, ``manifest.json``. ``--list`` shows what there is, which pages read it and what changed since;
``--check`` makes a sample of numbers again and compares.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.arguments import one_of, positive
from benchmarks.common.columns import Column, Value
from benchmarks.common.command import reports_errors
from benchmarks.common.errors import FAILED
from benchmarks.common.table import Table, report_console
from benchmarks.studies.manifest.checking import Checked, check, draw, write_checked
from benchmarks.studies.manifest.ledger import NEVER, Ledger
from benchmarks.studies.manifest.parts import PARTS, PAST, RESULTS, Part
from benchmarks.studies.manifest.running import publish, run_part

CHECKED = RESULTS / "checked.json"
SHOWN_ROOMS = 3
"""Changed rooms that a table names."""


@reports_errors(ValueError, interrupted="interrupted: nothing is lost, the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    """List, make or check the evidence.

    Args:
        argv: arguments; absent means those of the process.

    Returns:
        Exit code: 0 done (or out of time), 1 a part failed or a number did not come out again, 2 bad input.
    """
    options = _parser().parse_args(argv)
    console, ledger = Console(), Ledger()
    parts = [PARTS[name] for name in options.part] if options.part else list(PARTS.values())
    if options.check:
        return _check(parts, options, ledger, console)
    if options.stale or not (options.list or options.part):
        parts = [part for part in parts if ledger.changed(part)]
    parts.sort(key=lambda part: part.minutes)
    if options.list:
        report_console(console).print(listing(parts, ledger))
        return 0
    return _make(parts, options, ledger, console)


def _make(parts: Sequence[Part], options: argparse.Namespace, ledger: Ledger, console: Console) -> int:
    """Make parts, one after the other, until the time is over."""
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    for number, part in enumerate(parts, start=1):
        if until is not None and time.monotonic() >= until:
            console.print(f"out of time: {len(parts) - number + 1} parts are left; the same command goes on")
            return 0
        console.rule(f"{number} of {len(parts)}: {part.name}, about {part.minutes:g} minutes of one core", style="dim")
        code, folder = ledger.code(part), options.out / part.name
        seconds = run_part(part, code, folder.resolve())
        publish(part, folder, RESULTS)
        ledger.note(part, round(seconds, 1), code)
    return 0


def _check(parts: Sequence[Part], options: argparse.Namespace, ledger: Ledger, console: Console) -> int:
    """Make a sample of the quick parts' numbers again."""
    quick = [part for part in parts if part.minutes <= options.quick and _comparable(part)]
    drawn = draw(quick, options.check, options.seed, RESULTS)

    def make(part: Part) -> Path:
        folder: Path = (options.out / "again" / part.name).resolve()
        run_part(part, ledger.code(part), folder)
        return folder

    checked = check(drawn, make, options.tolerance)
    report_console(console).print(checked_table(checked))
    write_checked(CHECKED, options.seed, checked)
    return 0 if all(one.same for one in checked) else FAILED


def _comparable(part: Part) -> bool:
    """True where a part's numbers are one file that the same code makes again."""
    (name, *others) = part.results
    return not part.timed and not others and name.endswith(".json") and (RESULTS / name).is_file()


def listing(parts: Sequence[Part], ledger: Ledger) -> Table:
    """Parts with their results, pages, cost, and what changed since they were made."""
    rows: list[Sequence[Value]] = []
    for part in parts:
        record, changed = ledger.records.get(part.name), ledger.changed(part)
        seconds = part.minutes if record is None or record.seconds is None else record.seconds / 60
        pages = " ".join(Path(page).name for page in part.pages())
        rows.append([part.name, pages, seconds, None if record is None else record.made, _said(changed)])
    columns = (
        *("part", Column("read by", wide=True), Column("minutes", ".0f"), "made"),
        Column("changed since", wide=True, align="left"),
    )
    past = f"; made no more: {', '.join(sorted(PAST))}" if PAST else ""
    return Table("", columns, rows, f"minutes of one core; nothing changed since: made with today's code{past}")


def _said(changed: Sequence[str]) -> str:
    if list(changed) == [NEVER]:
        return NEVER
    more = f" and {len(changed) - SHOWN_ROOMS} more rooms" if len(changed) > SHOWN_ROOMS else ""
    return ", ".join(changed[:SHOWN_ROOMS]) + more if changed else "nothing"


def checked_table(checked: Sequence[Checked]) -> Table:
    """Numbers as they were and as they came out again."""
    columns = ("part", Column("where", wide=True), Column("stored", ".6g"), Column("again", ".6g"), "same")
    rows = [[one.part, one.where, one.stored, one.again, "yes" if one.same else "no"] for one in checked]
    return Table("", columns, rows, f"{sum(one.same for one in checked)} of {len(checked)} came out again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.evidence", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--part", nargs="+", type=one_of("part", lambda: PARTS), metavar="NAME", help="only these, stale or not")
    add("--list", action="store_true", help="make nothing; show the parts")
    add("--stale", action="store_true", help="only what was made with other code, of --list or --part")
    add("--minutes", type=float, metavar="M", help="begin no part later than this")
    add("--out", type=Path, default=Path("results/evidence"), metavar="DIR", help="of what is under way: %(default)s")
    add("--check", type=positive, metavar="N", help="make so many numbers of quick parts again, and compare")
    add("--quick", type=float, default=5, metavar="M", help="minutes a part to check may take (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    add("--tolerance", type=float, default=0.005, metavar="X", help="accepted difference (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
