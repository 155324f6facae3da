import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from benchmarks.visualization import (
    plot_lambda_evolution,
    plot_pruning_comparison,
    plot_sensitivity_heatmap,
    plot_training_curves,
)
from benchmarks.visualization.run import plot_budgets

ROWS = [
    {"episode": 0, "return": 0.0, "accuracy": 0.90, "flops_reduction": 0.91, "target_flops_reduction": 0.9},
    {"episode": 1, "return": 0.1, "accuracy": 0.92, "flops_reduction": 0.89, "target_flops_reduction": 0.9},
    {"episode": 2, "return": 0.2, "accuracy": 0.94, "flops_reduction": 0.90, "target_flops_reduction": 0.9},
]
PRICES = {"conv1": torch.tensor([3.0, 1.0, 2.0]), "layer1.conv1": torch.tensor([0.1, 0.0, 0.4, 0.2])}
LAYERS = list(PRICES)


def all_figures(path=None):
    def name(stem):
        return None if path is None else path / f"{stem}.png"

    return {
        "training": plot_training_curves(ROWS, save_path=name("training")),
        "comparison": plot_pruning_comparison(["ours", "theirs"], [0.9, 0.8], [3.0, 2.0], save_path=name("comparison")),
        "heatmap": plot_sensitivity_heatmap(PRICES, LAYERS, save_path=name("heatmap")),
        "lambda": plot_lambda_evolution([1.0, 0.8], [0.9, 0.8], save_path=name("lambda")),
        "budgets": plot_budgets({"conv1": 0.25, "layer1.conv1": 0.5}, PRICES, save_path=name("budgets")),
    }


def test_every_plot_is_a_figure_saved_as_a_readable_image(tmp_path):
    figures = all_figures(tmp_path)
    for name, figure in figures.items():
        assert isinstance(figure, Figure)
        image = imread(tmp_path / f"{name}.png")
        assert image.shape[0] > 100
        assert image.std() > 0.01  # something is drawn
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(figures)


def test_plots_leave_global_matplotlib_state_alone():
    before = dict(mpl.rcParams)
    all_figures()
    assert dict(mpl.rcParams) == before
    script = "import sys, benchmarks.visualization; raise SystemExit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_suffix_decides_the_format(tmp_path):
    plot_lambda_evolution([1.0, 0.8], [0.9, 0.8], save_path=tmp_path / "a.svg")
    plot_lambda_evolution([1.0, 0.8], [0.9, 0.8], save_path=tmp_path / "b")
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_training_curves_draw_the_values_given_in_percent():
    figure = plot_training_curves(ROWS)
    returns, accuracies, flops = figure.axes
    np.testing.assert_allclose(returns.lines[0].get_ydata(), [0.0, 0.1, 0.2])
    np.testing.assert_allclose(accuracies.lines[0].get_ydata(), [90, 92, 94])
    np.testing.assert_allclose(flops.lines[0].get_ydata(), [91, 89, 90])
    np.testing.assert_allclose(flops.lines[-1].get_ydata(), [90, 90, 90])  # the target
    np.testing.assert_allclose(accuracies.lines[1].get_ydata(), [90, 91, 93])  # median of the last 2


def test_a_freak_episode_is_marked_at_the_edge_instead_of_flattening_the_rest():
    values = [0.9 + 0.001 * (i % 5) for i in range(100)]
    values[3] = 0.1
    (panel,) = plot_training_curves({"accuracy": values}).axes
    bottom, _ = panel.get_ylim()
    assert bottom > 80
    marks = [line for line in panel.lines if line.get_marker() == "v" and len(line.get_xdata())]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in marks] == [([4], [bottom])]


def test_training_curves_accept_columns_and_rows_alike():
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    one, other = plot_training_curves(ROWS), plot_training_curves(columns)
    for left, right in zip(one.axes, other.axes, strict=True):
        np.testing.assert_array_equal(left.lines[0].get_ydata(), right.lines[0].get_ydata())


def test_heatmap_rows_are_the_sorted_log_prices_of_each_layer():
    image = plot_sensitivity_heatmap(PRICES, LAYERS).axes[0].images[0].get_array()
    assert image.shape[0] == 2
    np.testing.assert_allclose(image[0, [0, -1]], np.log10([1.0, 3.0]))
    assert (np.diff(image, axis=1) >= 0).all()
    # A price of zero is drawn as the smallest positive one, not as minus infinity.
    np.testing.assert_allclose(image[1, 0], np.log10(0.1), rtol=1e-6)


def test_heatmap_accepts_prices_in_the_order_of_the_names():
    by_name = plot_sensitivity_heatmap(PRICES, LAYERS).axes[0].images[0].get_array()
    in_order = plot_sensitivity_heatmap(list(PRICES.values()), LAYERS).axes[0].images[0].get_array()
    np.testing.assert_array_equal(by_name, in_order)


def test_budget_bars_show_removed_and_kept_shares_of_every_layer():
    figure = plot_budgets({"conv1": 0.25, "layer1.conv1": 0.5}, PRICES)
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(widths, [75, 50, 25, 50])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == LAYERS


def test_comparison_draws_each_method_at_its_accuracy_and_speedup():
    left, right = plot_pruning_comparison(["a", "b"], [0.9, 0.8], [3.0, 2.0]).axes
    np.testing.assert_allclose(left.lines[0].get_xdata(), [90, 80])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [3, 2])


@pytest.mark.parametrize(
    "call",
    [
        lambda: plot_training_curves([]),
        lambda: plot_training_curves({"loss": [1.0]}),
        lambda: plot_pruning_comparison([], [], []),
        lambda: plot_pruning_comparison(["a"], [0.5, 0.6], [1.0]),
        lambda: plot_sensitivity_heatmap(PRICES, ["conv9"]),
        lambda: plot_sensitivity_heatmap({}, []),
        lambda: plot_lambda_evolution([1.0], []),
        lambda: plot_lambda_evolution([], []),
        lambda: plot_budgets({"conv9": 0.5}, PRICES),
    ],
)
def test_nothing_to_draw_is_a_clear_error(call):
    with pytest.raises(ValueError, match=r"need|got|no "):
        call()
