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
    page = PAGE.read_text()
    for row in rows:
        line = next(line for line in page.splitlines() if line.startswith(f"| {row['variant']} |"))
        for stage in ("one_shot", "final"):
            assert f"{100 * row['accuracy'][stage]['mean']:.2f} ± {100 * row['accuracy'][stage]['std']:.2f}" in line
            comparison = row["accuracy"][stage]["comparison"]
            assert comparison is None or f"{100 * comparison['mean_difference']:+.2f} [" in line
