"""Pictures of plain numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hessian.support.lazy import lazy_names

if TYPE_CHECKING:
    from benchmarks.visualization.loss import plot_loss_curves
    from benchmarks.visualization.run import (
        plot_budgets,
        plot_lambda_evolution,
        plot_pruning_comparison,
        plot_sensitivity_heatmap,
        plot_summary,
        plot_training_curves,
    )
    from benchmarks.visualization.seeds import plot_accuracy_flops, plot_best_so_far, plot_performance_profiles
    from benchmarks.visualization.speed import plot_accuracy_speedup, plot_latency_by_batch
    from benchmarks.visualization.style import save_figure

__all__ = [
    "plot_accuracy_flops",
    "plot_accuracy_speedup",
    "plot_best_so_far",
    "plot_budgets",
    "plot_lambda_evolution",
    "plot_latency_by_batch",
    "plot_loss_curves",
    "plot_performance_profiles",
    "plot_pruning_comparison",
    "plot_sensitivity_heatmap",
    "plot_summary",
    "plot_training_curves",
    "save_figure",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "plot_accuracy_flops": "seeds",
        "plot_accuracy_speedup": "speed",
        "plot_best_so_far": "seeds",
        "plot_budgets": "run",
        "plot_lambda_evolution": "run",
        "plot_latency_by_batch": "speed",
        "plot_loss_curves": "loss",
        "plot_performance_profiles": "seeds",
        "plot_pruning_comparison": "run",
        "plot_sensitivity_heatmap": "run",
        "plot_summary": "run",
        "plot_training_curves": "run",
        "save_figure": "style",
    },
)
