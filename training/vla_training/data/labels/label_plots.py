# SPDX-License-Identifier: Apache-2.0
"""Histograms of labels as a picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vla_nodes.display.style import BLUE, GREEN, GREY, printable
from vla_training.data.labels.frame_labels import (
    ADVANTAGE,
    POSITIVE,
    RETURN,
    SUBTASK_RETURN,
    VALUE,
    WEIGHT,
)
from vla_training.data.labels.summary import Labelled, histogram

MAX_TASKS = 20

_SHOWN = (RETURN, SUBTASK_RETURN, VALUE, ADVANTAGE, WEIGHT)


def plot_labels(file: Path, labelled: Labelled) -> Path:
    """Draws a row for each task, of ``MAX_TASKS`` at most, and a column for each label.

    Of advantages, those of frames that are positive are coloured apart.

    Args:
        file: A PNG, to be written.
        labelled: What to draw.

    Returns:
        The file.

    Raises:
        OSError: The disk refused.
    """
    names = [name for name in _SHOWN if name in labelled.columns]
    tasks = list(labelled.by_task())[:MAX_TASKS]
    figure = Figure(figsize=(3.4 * len(names), 2.3 * len(tasks) + 0.4), layout="constrained")
    axes = figure.subplots(len(tasks), len(names), squeeze=False)
    for row, (task, here) in zip(axes, tasks, strict=True):
        for axis, name in zip(row, names, strict=True):
            _draw(axis, labelled, name, here)
        row[0].set_ylabel("frames", color=GREY, fontsize=8)
        row[0].set_title(printable(task)[:60], loc="left", fontsize=10, fontweight="bold")
    for axis, name in zip(axes[-1], names, strict=True):
        axis.set_xlabel(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}")
    figure.savefig(aside, dpi=110, format="png")
    return aside.replace(file)


def _draw(axis: Axes, labelled: Labelled, name: str, here: np.ndarray) -> None:
    values = labelled.columns[name][here]
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=GREY)
    if not np.isfinite(values).any():
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color=GREY)
        return
    counts, edges = histogram(values)
    axis.stairs(counts, edges, fill=True, color=BLUE, label="all frames")
    if name == ADVANTAGE:
        good, _ = np.histogram(values[labelled.columns[POSITIVE][here] == 1], edges)
        axis.stairs(good, edges, fill=True, color=GREEN, label="positive")
        axis.legend(frameon=False, fontsize=8)
