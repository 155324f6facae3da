"""Pictures of methods, speed and loss curves draw what they are given, in one style, and refuse nothing to draw."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from benchmarks import visualization
from benchmarks.ablation.plot import plot_ablation
from benchmarks.ablation.tables import summarise
from benchmarks.visualization.style import COLOURS, look, new_figure, save_figure

FRONTS = {"ours": {0.5: [0.93, 0.92, 0.94, 0.93, 0.95], 0.9: [0.88]}, "theirs": {0.5: [0.9, 0.91], 0.9: [0.8, 0.7]}}
RUNS = np.maximum.accumulate(np.random.default_rng(0).random((5, 12)), axis=1)
LATENCIES = {"dense": {1: (4.0, 5.0), 16: (9.0, 9.5)}, "pruned": {1: 2.0, 16: 5.0}}
SPEEDUPS = {"dense": [(1.0, 0.95, "")], "ours": [(2.0, 0.94, "batch 1"), (2.5, 0.94, "batch 16")]}
CURVES = {"conv1": np.array([0.0, 1e-4, 1e-3, 1e-2]), "conv2": np.array([0.0, 2e-4, 2e-3])}
MEASURED = {"conv1": [(0.25, 2e-4), (0.5, 3e-3)]}


def ablation_rows():
    def run(seed, accuracy):
        network = {"accuracy": accuracy, "parameters": 9}
        stages = {"dense": network, "one_shot": network, "final": network}
        return {**stages, "seed": seed, "flops_reduction": 0.9, "search": {"measured_evaluations": 3}}

    values = {"full": 0.95, "no_rl": 0.94, "baseline": 0.8}
    return summarise({name: [run(seed, mean + 0.002 * seed) for seed in range(5)] for name, mean in values.items()})


FIGURES = {
    "fronts": lambda path=None: visualization.plot_accuracy_flops(FRONTS, path, dense_accuracy=0.96),
    "best": lambda path=None: visualization.plot_best_so_far({"gp": RUNS, "random": RUNS[:1]}, path),
    "profiles": lambda path=None: visualization.plot_performance_profiles({"a": [[0.8, 0.9], [0.5]]}, path),
    "latency": lambda path=None: visualization.plot_latency_by_batch(LATENCIES, path),
    "speedup": lambda path=None: visualization.plot_accuracy_speedup(SPEEDUPS, path, ideal=4.0),
    "loss": lambda path=None: visualization.plot_loss_curves(CURVES, MEASURED, path),
    "ablation": lambda path=None: plot_ablation(ablation_rows(), "title", path),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_name_without_suffix_gives_png_and_svg(name, tmp_path):
    figure = FIGURES[name](tmp_path / name)
    assert isinstance(figure, Figure)
    assert imread(tmp_path / f"{name}.png").std() > 0.01
    assert "<svg" in (tmp_path / f"{name}.svg").read_text()


def test_a_suffix_gives_that_file_and_dots_in_a_name_are_no_suffix(tmp_path):
    figure, _ = new_figure(2, 2)
    assert save_figure(figure, tmp_path / "a.svg") == [tmp_path / "a.svg"]
    assert save_figure(figure, tmp_path / "at-0.9") == [tmp_path / "at-0.9.png", tmp_path / "at-0.9.svg"]
    assert len(list(tmp_path.iterdir())) == 3
    assert "<dc:date>" not in (tmp_path / "a.svg").read_text()


def test_series_differ_in_more_than_colour():
    looks = [look(number) for number in range(24)]
    assert len({(style.colour, style.line) for style in looks}) == 24
    for one, other in itertools.pairwise(looks):
        assert one.colour != other.colour
        assert one.line != other.line
        assert one.marker != other.marker
    # In grey too: the first colours are apart in lightness.
    from matplotlib.colors import to_rgb

    lightness = [float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))) for colour in COLOURS]
    assert len({round(value, 2) for value in lightness}) == len(COLOURS)


def test_fronts_show_means_and_intervals_in_percent():
    (panel,) = FIGURES["fronts"]().axes
    lines = {tuple(np.round(line.get_ydata(), 6)) for line in panel.lines}
    assert (93.4, 88.0) in lines
    (segments, _) = panel.collections[0].get_segments()
    low, high = segments[:, 1]
    assert 92 < low < 93.4 < high < 95


def test_fronts_of_one_seed_have_no_interval():
    (panel,) = FIGURES["fronts"]().axes
    (_, single) = panel.collections[0].get_segments()
    assert single[0, 1] == single[1, 1] == pytest.approx(88.0)


def test_progress_is_the_interquartile_mean_of_the_runs():
    (panel,) = FIGURES["best"]().axes
    expected = 100 * np.sort(RUNS, axis=0)[1:-1].mean(axis=0)
    np.testing.assert_allclose(panel.lines[0].get_ydata(), expected)


def test_latencies_are_drawn_at_their_batch_sizes():
    (panel,) = FIGURES["latency"]().axes
    np.testing.assert_array_equal(panel.lines[0].get_xdata(), [1, 16])
    np.testing.assert_array_equal(panel.lines[0].get_ydata(), [4.0, 9.0])
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "16"]


def test_loss_curves_start_where_something_is_lost_and_carry_their_measurements():
    figure = FIGURES["loss"]()
    first, second = (panel for panel in figure.axes if panel.get_visible())
    np.testing.assert_allclose(first.lines[0].get_xdata(), [25, 50, 75])
    np.testing.assert_allclose(first.lines[1].get_ydata(), [2e-4, 3e-3])
    assert len(second.lines) == 1


def test_the_ablation_shows_every_run_the_mean_and_its_interval():
    left, _ = FIGURES["ablation"]().axes
    dots = next(line for line in left.lines if len(line.get_xdata()) == 5)
    np.testing.assert_allclose(dots.get_xdata(), [95, 95.2, 95.4, 95.6, 95.8])
    assert [label.get_text() for label in left.get_yticklabels()] == ["full", "no_rl", "baseline"]
    assert any("(-1.0)" in text.get_text() for text in left.texts)


@pytest.mark.parametrize(
    "call",
    [
        lambda: visualization.plot_accuracy_flops({}),
        lambda: visualization.plot_accuracy_flops({"a": {}}),
        lambda: visualization.plot_accuracy_flops({"a": {0.5: []}}),
        lambda: visualization.plot_accuracy_flops({"a": {0.5: [0.9, float("nan")]}}),
        lambda: visualization.plot_best_so_far({}),
        lambda: visualization.plot_best_so_far({"a": [0.5, 0.6]}),
        lambda: visualization.plot_best_so_far({"a": [[0.5, float("nan")]]}),
        lambda: visualization.plot_performance_profiles({}),
        lambda: visualization.plot_latency_by_batch({"dense": {}}),
        lambda: visualization.plot_latency_by_batch({"dense": {1: 0.0}}),
        lambda: visualization.plot_accuracy_speedup({"dense": []}),
        lambda: visualization.plot_loss_curves({}, {}),
        lambda: visualization.plot_loss_curves(CURVES, {"conv9": [(0.5, 1.0)]}),
        lambda: visualization.plot_loss_curves({"conv1": [0.0, 0.0]}, {}),
        lambda: plot_ablation([], "title"),
    ],
)
def test_nothing_to_draw_is_a_clear_error(call):
    with pytest.raises(ValueError, match=r"no |need|got|must|nothing|finite|give"):
        call()
