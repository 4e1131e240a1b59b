# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a value function as a folder: ``report.json`` and plots."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla_training.data.errors import DataError
from vla_training.data.files import write_whole
from vla_training.evaluation.value_evaluation import LabelledDataset, ValueResults
from vla_training.evaluation.value_metrics import LEVELS, Metrics
from vla_training.evaluation.value_plots import plot_calibration, plot_values

REPORT = "report.json"


def as_json(
    dataset: LabelledDataset, results: ValueResults, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as plain values; None stands for a figure that nothing was measured for.

    Args:
        dataset: With the labels.
        results: Of the evaluation.
        settings: Of the evaluation; they come first.
    """
    return {
        **settings,
        "fps": dataset.fps,
        "labels": dict(dataset.labels),
        "frames": len(results.frames),
        "frames_without_label": results.left_out,
        "levels": list(LEVELS),
        "baselines": {name: asdict(one.smoothing) for name, one in results.baselines.items()},
        "predictors": _figures(results.total),
        "tasks": {task: _figures(metrics) for task, metrics in results.tasks.items()},
    }


def write_report(
    folder: Path, dataset: LabelledDataset, results: ValueResults, report: Mapping[str, Any]
) -> None:
    """Writes plots and report; a report lies only beside the plots that belong to it.

    Raises:
        DataError: The disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT).unlink(missing_ok=True)
        plot_calibration(folder / "calibration.png", results.total)
        plot_values(folder / "values.png", dataset.fps, results.frames, results.probabilities)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    write_whole(folder / REPORT, report)


def _figures(metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in metrics.items()}
