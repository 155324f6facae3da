"""docs/benchmarks.md: its blocks run, its table is the result file's, its commands parse."""

import json
import shlex

from benchmarks import visualization
from benchmarks.ablation import command as ablation
from benchmarks.ablation.variants import VARIANTS
from tests.pages import DOCS, ROOT, code_blocks, run_page

PAGE = DOCS / "benchmarks.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(PAGE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"fronts.png", "fronts.svg", "latency.svg"}
    assert "points, p = 0." in capsys.readouterr().out


def test_its_commands_are_understood():
    for line in "".join(code_blocks(PAGE, "bash")).replace("\\\n", " ").splitlines():
        arguments = shlex.split(line)
        assert arguments[:3] == ["python", "-m", "benchmarks.ablation"]
        ablation._parser().parse_intermixed_args(arguments[3:])


def test_it_names_every_variant_and_every_picture():
    page = PAGE.read_text()
    for name, variant in VARIANTS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        if name != "baseline":
            assert all(override.removesuffix(".0") in row for override in variant.overrides)
    assert all(f"`{name}`" in page for name in visualization.__all__ if name != "save_figure")


def test_its_table_is_what_was_measured():
    rows = json.loads((ROOT / "benchmarks" / "results" / "ablation_fashion.json").read_text())["rows"]
    assert [row for row in map(line_of, rows) if row not in PAGE.read_text().splitlines()] == []


def line_of(row):
    """A variant's row of the page: accuracies, differences with intervals, and the p-value of the fine-tuned ones."""
    cells, p_value = [row["variant"]], ""
    for stage in ("one_shot", "final"):
        found = row["accuracy"][stage]
        cells.append(f"{100 * found['mean']:.2f} ± {100 * found['std']:.2f}")
        difference = found["comparison"]
        ends = [100 * end for end in difference["difference_interval"]] if difference else []
        cells.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(100 * difference["mean_difference"], *ends) if ends else "")
        if difference:
            p_value = f"{difference['p_value_holm']:.3f}" if difference["p_value_holm"] < 0.995 else "1.00"
    return f"| {' | '.join([*cells, p_value])} |"
