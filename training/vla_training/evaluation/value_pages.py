# SPDX-License-Identifier: Apache-2.0
"""Episodes with their values as pages: one for each, and an overview of all."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from vla_nodes.display.joint_plot import FAINT, INK
from vla_nodes.display.style import BLUE, GREY, ORANGE, SKY, printable
from vla_nodes.models.c51 import HIGHEST, INTERVALS, LOWEST
from vla_training.data.schema import Outcome
from vla_training.evaluation.policy_plots import SUBTASK_COLOURS
from vla_training.evaluation.value_episodes import EpisodeValues
from vla_training.evaluation.value_plots import HEAT, OUTCOME_COLOURS, OUTCOME_WORDS
from vla_training.plot_pages import page

MAX_EPISODES = 40
"""In an overview."""

_WIDTH, _LEFT, _RIGHT = 12.0, 0.85, 0.25  # inches
_HEAD, _CURVE, _STRIP, _AXIS, _GAP = 0.95, 3.7, 0.24, 0.5, 0.06
_LETTERS = 11.5  # of a subtask, in an inch
_COLUMNS = 4
_DARKEST = 0.08  # probability of an atom; the same on every page, so that pages compare
_ATOM = (HIGHEST - LOWEST) / INTERVALS

_OUTLINE = [withStroke(linewidth=3.4, foreground="white")]


def plot_episode(path: Path, episode: EpisodeValues, cameras: Sequence[str], pictures: int) -> None:
    """Draws the distribution over time, with the return and what the cameras saw.

    Args:
        path: Of the PNG.
        episode: What to draw.
        cameras: A row of pictures for each.
        pictures: In a row, at even times; fewer where there are not so many frames.

    Raises:
        DataError: A picture cannot be read.
        OSError: The disk refuses.
    """
    count = min(pictures, len(episode.frames))
    shown = ((np.arange(count) + 0.5) * len(episode.frames) / count).astype(int)
    seen = [[episode.picture(camera, f) for f in episode.frames[shown]] for camera in cameras]
    cell = (_WIDTH - _LEFT - _RIGHT) / count
    heights = [min(cell * row[0].shape[0] / row[0].shape[1], 2.4) for row in seen]
    strip = _STRIP if any(episode.subtasks) else 0.0
    top = _HEAD + _CURVE + strip
    height = top + _AXIS + sum(heights) + _GAP * (len(heights) + 1)
    with page(path, _WIDTH, height, by_hand=True) as sheet:
        _draw_heading(sheet, episode)
        curve = _place(sheet, _LEFT, _HEAD, _WIDTH - _LEFT - _RIGHT, _CURVE)
        _draw_curve(curve, episode)
        lowest = curve
        if strip:
            curve.tick_params(bottom=False, labelbottom=False)
            lowest = _place(sheet, _LEFT, _HEAD + _CURVE, _WIDTH - _LEFT - _RIGHT, strip)
            _draw_subtasks(lowest, episode)
        start, end = _span(episode)
        for axes in (curve, lowest):
            axes.set_xlim(start, end)
        lowest.set_xticks(episode.times[shown], [f"{t:.1f} s" for t in episode.times[shown]])
        y = top + _AXIS
        for camera, row, tall in zip(cameras, seen, heights, strict=True):
            for place, picture in enumerate(row):
                axes = _place(sheet, _LEFT + cell * place + _GAP / 2, y, cell - _GAP, tall)
                axes.imshow(picture, interpolation="antialiased")
                axes.set_axis_off()
            label = _place(sheet, 0.0, y, _LEFT - 0.1, tall)
            label.set_axis_off()
            label.text(1.0, 0.5, printable(camera, 12), ha="right", va="center", fontsize=10)
            y += tall + _GAP


def plot_overview(path: Path, episodes: Sequence[EpisodeValues]) -> None:
    """Draws the values of episodes side by side, successes first.

    Args:
        path: Of the PNG.
        episodes: One at least; more than ``MAX_EPISODES`` are left out.

    Raises:
        OSError: The disk refuses.
    """
    order = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.UNKNOWN)
    shown = sorted(episodes, key=lambda one: (order.index(one.outcome), one.episode))
    left_out = len(shown) - MAX_EPISODES
    shown = shown[:MAX_EPISODES]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with page(path, max(4.4, 3.0 * columns), 0.9 + 2.0 * rows) as sheet:
        title = "Values by episode" + (f", {left_out} more left out" if left_out > 0 else "")
        sheet.suptitle(title)
        grid = sheet.subplots(rows, columns, squeeze=False, sharey=True).flatten().tolist()
        for axes, episode in zip(grid, shown, strict=False):
            _draw_small(axes, episode)
        for unused in grid[len(shown) :]:
            unused.set_visible(False)
        handles = [
            Line2D([], [], color=BLUE, linewidth=1.8, label="value"),
            Patch(color=SKY, alpha=0.35, label="10 % to 90 %"),
            Line2D([], [], color=ORANGE, linewidth=1.6, linestyle=(0, (4, 2)), label="return"),
        ]
        sheet.legend(handles=handles, loc="outside lower center", ncols=3)


def _place(sheet: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at inches from the page's upper left corner."""
    wide, tall = sheet.get_size_inches()
    return sheet.add_axes((x / wide, 1.0 - (y + height) / tall, width / wide, height / tall))


def _draw_heading(sheet: Figure, episode: EpisodeValues) -> None:
    heading = _place(sheet, _LEFT, 0.0, _WIDTH - _LEFT - _RIGHT, _HEAD)
    heading.set_axis_off()
    heading.set(xlim=(0, 1), ylim=(0, 1))
    name = heading.text(
        0.0, 0.72, f"Episode {episode.episode}", fontsize=15, weight="bold", va="center"
    )
    heading.annotate(
        OUTCOME_WORDS[episode.outcome].upper(),
        (1.0, 0.5),
        (14, 0),
        xycoords=name,
        textcoords="offset points",
        fontsize=10,
        weight="bold",
        color="white",
        va="center",
        bbox={
            "boxstyle": "round,pad=0.35,rounding_size=0.9",
            "facecolor": OUTCOME_COLOURS[episode.outcome],
            "linewidth": 0,
        },
    )
    heading.text(0.0, 0.25, printable(episode.task, 80), fontsize=11, va="center")
    handles = [
        Line2D([], [], color=INK, linewidth=2.2, label="value"),
        Patch(color=HEAT(0.55), label="probability"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (2, 2)), label="10 % and 90 %"),
    ]
    if np.isfinite(episode.returns).any():
        handles.append(Line2D([], [], color=ORANGE, linewidth=2.2, label="return"))
    heading.legend(
        handles=handles, loc="center right", bbox_to_anchor=(1.0, 0.25), ncols=4, borderaxespad=0.0
    )


def _draw_curve(axes: Axes, episode: EpisodeValues) -> None:
    start, end = _span(episode)
    mass = episode.probabilities
    # The power lets a broad distribution be seen, pale, beside a narrow one.
    norm = PowerNorm(0.7, 0.0, _DARKEST, clip=True)
    extent = (start, end, LOWEST - _ATOM / 2, HIGHEST + _ATOM / 2)
    axes.imshow(mass.T, origin="lower", aspect="auto", extent=extent, cmap=HEAT, norm=norm)
    times = episode.times
    axes.plot(times, episode.returns, color=ORANGE, linewidth=2.2, path_effects=_OUTLINE)
    for edge in episode.band.T:
        axes.plot(times, edge, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.plot(times, episode.values, color=INK, linewidth=2.2, path_effects=_OUTLINE)
    colour = OUTCOME_COLOURS[episode.outcome]
    axes.plot(
        times[-1],
        episode.values[-1],
        "o",
        color=colour,
        markersize=9,
        clip_on=False,
        markeredgecolor="white",
        zorder=5,
    )
    axes.axvline(end, color=colour, linewidth=5, clip_on=False, zorder=4)
    axes.set_ylim(LOWEST - 0.02, HIGHEST + 0.02)
    axes.set_ylabel("value")
    axes.grid(visible=False)
    for level in (-0.75, -0.5, -0.25):
        axes.axhline(level, color=FAINT, linewidth=0.8, zorder=1.5)


def _draw_subtasks(axes: Axes, episode: EpisodeValues) -> None:
    """A strip of the subtasks as they were recorded."""
    texts, (start, end) = episode.subtasks, _span(episode)
    colours = dict(
        zip(dict.fromkeys(text for text in texts if text), SUBTASK_COLOURS, strict=False)
    )
    edges = np.append(episode.times - episode.times[0] + start, end)
    first = 0
    for text, run in groupby(texts):
        last = first + len(list(run))
        width = edges[last] - edges[first]
        if text:
            axes.barh(
                0.5,
                width,
                0.9,
                edges[first],
                color=colours.get(text, GREY),
                alpha=0.4,
                linewidth=0,
            )
            room = int(width / (end - start) * (_WIDTH - _LEFT - _RIGHT) * _LETTERS)
            if room >= 4:
                axes.text(
                    edges[first] + width / 2,
                    0.46,
                    printable(text, room),
                    fontsize=8.5,
                    color=INK,
                    ha="center",
                    va="center",
                )
        first = last
    axes.set(ylim=(0, 1), yticks=[])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _draw_small(axes: Axes, episode: EpisodeValues) -> None:
    times, (low, high) = episode.times, episode.band.T
    colour = OUTCOME_COLOURS[episode.outcome]
    axes.fill_between(times, low, high, color=SKY, alpha=0.35, linewidth=0)
    axes.plot(times, episode.returns, color=ORANGE, linewidth=1.6, linestyle=(0, (4, 2)))
    axes.plot(times, episode.values, color=BLUE, linewidth=1.8)
    axes.plot(times[-1], episode.values[-1], "o", color=colour, markersize=6, clip_on=False)
    axes.set_title(f"{episode.episode}  {printable(episode.task, 30)}", fontsize=9)
    axes.text(
        0.03,
        0.04,
        OUTCOME_WORDS[episode.outcome],
        transform=axes.transAxes,
        fontsize=9,
        weight="bold",
        color=colour,
    )
    axes.set_ylim(LOWEST - 0.02, HIGHEST + 0.04)
    axes.spines[["left", "bottom"]].set(color=colour, linewidth=1.6)
    axes.xaxis.set_major_formatter("{x:g} s")


def _span(episode: EpisodeValues) -> tuple[float, float]:
    """Seconds that the frames stand for: each as long as it is from one to the next."""
    times: npt.NDArray[np.float64] = episode.times
    half = (times[1] - times[0] if len(times) > 1 else 1.0 / episode.fps) / 2
    return float(times[0] - half), float(times[-1] + half)
