# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a value function as pictures: its calibration, and values of all episodes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.lines import Line2D

from vla_nodes.display.joint_plot import INK
from vla_nodes.display.style import BLUE, GREEN, GREY, ORANGE, RED, SKY
from vla_nodes.models.c51 import HIGHEST, LOWEST
from vla_training.data.schema import Outcome
from vla_training.evaluation.value_baselines import CONSTANT, ELAPSED_TIME
from vla_training.evaluation.value_evaluation import MODEL
from vla_training.evaluation.value_metrics import LEVELS, LabelledFrames, Metrics, expectations
from vla_training.plot_pages import page

OUTCOME_COLOURS = {Outcome.SUCCESS: GREEN, Outcome.FAILURE: RED, Outcome.UNKNOWN: GREY}
OUTCOME_WORDS = {
    Outcome.SUCCESS: "success",
    Outcome.FAILURE: "failure",
    Outcome.UNKNOWN: "outcome unknown",
}
HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", SKY, BLUE, "#003a5c"])

_LINES = {  # colour, width, style
    MODEL: (BLUE, 2.2, "-"),
    ELAPSED_TIME: (ORANGE, 1.6, (0, (5, 2))),
    CONSTANT: (GREY, 1.6, (0, (1.5, 1.5))),
}
_CELLS = 60  # of either axis of a histogram


def plot_calibration(path: Path, predictors: Mapping[str, Metrics]) -> None:
    """Draws how often returns lie at or below predicted quantiles.

    Args:
        path: Of the PNG.
        predictors: By name.
    """
    with page(path, 6.4, 6.4) as sheet:
        axes = sheet.subplots()
        axes.set_title("Does a predicted quantile hold as often as it says?")
        axes.plot((0, 1), (0, 1), color=INK, linewidth=0.8, label="exactly")
        for name, metrics in predictors.items():
            colour, width, style = _LINES[name]
            label = f"{name}, {metrics.calibration_error:.3f} away on average"
            axes.plot(
                LEVELS,
                metrics.calibration,
                color=colour,
                linewidth=width,
                linestyle=style,
                marker="o",
                markersize=4,
                label=label,
            )
        axes.set_xlabel("level of the predicted quantile")
        axes.set_ylabel("share of returns at or below it")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(loc="upper left")


def plot_values(
    path: Path, fps: float, frames: LabelledFrames, probabilities: npt.NDArray[np.floating]
) -> None:
    """Draws the expected values of all episodes over time, and over the returns.

    Args:
        path: Of the PNG.
        fps: Frames in a second.
        frames: With labels.
        probabilities: (F, 201).
    """
    values = expectations(probabilities)
    with page(path, 12.0, 5.4) as sheet:
        over_time, over_return = sheet.subplots(1, 2, width_ratios=[1.3, 1])
        _draw_episodes(over_time, fps, frames, values)
        over_return.set_title("Value and return of all frames; darker: more of them")
        bounds = ((LOWEST, HIGHEST), (LOWEST, HIGHEST))
        counts, edges, _ = np.histogram2d(frames.returns, values, _CELLS, bounds)
        cells = np.ma.masked_equal(counts.T, 0)
        norm = LogNorm(1, max(2.0, counts.max()))
        over_return.pcolormesh(edges, edges, cells, cmap=HEAT, norm=norm)
        over_return.plot((LOWEST, HIGHEST), (LOWEST, HIGHEST), color=INK, linewidth=0.8)
        over_return.set(xlabel="return", ylabel="value", aspect="equal")


def _draw_episodes(
    axes: Axes, fps: float, frames: LabelledFrames, values: npt.NDArray[np.floating]
) -> None:
    episodes = list(frames.episodes())
    alpha = float(np.clip(12 / len(episodes), 0.15, 0.9))
    counts = dict.fromkeys(OUTCOME_COLOURS, 0)
    for outcome, rows in episodes:
        counts[outcome] += 1
        colour, times = OUTCOME_COLOURS[outcome], frames.frame[rows] / fps
        axes.plot(times, values[rows], color=colour, linewidth=1.1, alpha=alpha)
        axes.plot(times[-1], values[rows[-1]], "o", color=colour, markersize=5)
    axes.set_title("Value over time, with a dot at an episode's end")
    axes.set(xlabel="time in the episode (s)", ylabel="value", ylim=(LOWEST - 0.02, 0.02))
    axes.set_xlim(left=0.0)
    handles = [
        Line2D([], [], color=OUTCOME_COLOURS[outcome], marker="o", label=f"{word} ({count})")
        for outcome, count in counts.items()
        if count
        for word in [OUTCOME_WORDS[outcome]]
    ]
    axes.legend(handles=handles, loc="lower right")
