# SPDX-License-Identifier: Apache-2.0
"""The value estimate on a terminal: a page for ``rich.live.Live`` and a line for a log.

The page fits 80 x 24 characters and says as much without colours. Texts become ``Text`` objects,
so that markup in them stays text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from vla_nodes.display.style import figure, printable, state_colour
from vla_nodes.display.terminal_parts import LABEL, area, arrow, bar, head
from vla_nodes.display.value_history import SPAN

COLUMNS = 67  # of a chart; three atoms of the distribution fall in each
CURVE_ROWS, DISTRIBUTION_ROWS = 5, 3
QUANTILES, INPUTS = 5, 4  # that fit in a line; what is more is left out

NOTHING = np.zeros(0)


@dataclass(frozen=True)
class WatchView:
    """What is known of the value right now; NaN stands for an unknown number.

    Attributes:
        task: In plain words.
        subtask: In plain words.
        state: ``running``, ``stalled``, ``dropped``, ``finished``, ``waiting`` or another word.
        value: Of the task, in [-1, 0].
        subtask_value: Of the subtask, in [-1, 0].
        trend: Of the value, per second.
        energy: Of the latest chunk.
        quantiles: Values by level.
        entropy: Of the distribution, nat.
        probabilities: The newest distribution (N,), evenly spaced over [-1, 0]; empty for none.
        times: Of the recent estimates (N,), s, the newest last.
        values: At those times (N,).
        age: Seconds since the observation behind the newest estimate.
        input_ages: Seconds by what the estimate was made from.
    """

    task: str = ""
    subtask: str = ""
    state: str = "waiting"
    value: float = math.nan
    subtask_value: float = math.nan
    trend: float = math.nan
    energy: float = math.nan
    quantiles: Mapping[float, float] = field(default_factory=dict)
    entropy: float = math.nan
    probabilities: np.ndarray = field(default_factory=lambda: NOTHING)
    times: np.ndarray = field(default_factory=lambda: NOTHING)
    values: np.ndarray = field(default_factory=lambda: NOTHING)
    age: float = math.nan
    input_ages: Mapping[str, float] = field(default_factory=dict)


def render_watch(view: WatchView) -> RenderableType:
    """Lay the page out, as wide as the console is."""
    curve = area(1.0 + _resampled(view.times, view.values), CURVE_ROWS)
    masses = _binned(view.probabilities)
    bars = area(masses / max(masses.max(), 1e-6), DISTRIBUTION_ROWS)
    axis = f"-1{'-0.5':^{COLUMNS - 4}} 0"
    return Group(
        _head(view),
        Text(),
        _chart(f"VALUE OVER {SPAN:.0f} s", curve, ["0", *[""] * (CURVE_ROWS - 2), "-1"], view),
        Text(),
        _chart("DISTRIBUTION", bars, [""] * DISTRIBUTION_ROWS, view),
        Text(" " * 4 + axis, style=LABEL, no_wrap=True, overflow="crop"),
    )


def watch_line(view: WatchView) -> str:
    """One plain line, of at most 240 characters."""
    parts = [
        printable(view.state, 20),
        f"value {figure(view.value, 'z.2f')} ({figure(view.trend, '+z.3f')}/s)",
        _quantiles(view),
        f"subtask {figure(view.subtask_value, 'z.2f')}",
        f"energy {figure(view.energy, '.2f')}",
        _age(view),
        printable(view.subtask or view.task, 60) or "-",
    ]
    return printable(" | ".join(part for part in parts if part), 240)


def _head(view: WatchView) -> RenderableType:
    value = Text.assemble(
        (bar(1.0 + view.value, 16), state_colour(view.state)),
        (f"  {figure(view.value, 'z.2f')}", "bold"),
        f"  {arrow(view.trend)}{figure(view.trend, '+z.3f')}/s",
        ("    energy  ", LABEL),
        figure(view.energy, ".2f"),
    )
    spread = Text.assemble(
        _quantiles(view) or "-", ("    entropy  ", LABEL), f"{figure(view.entropy, '.2f')} nat"
    )
    inputs = "    ".join(
        f"{printable(name, 12)} {figure(age, '.3f')} s"
        for name, age in islice(view.input_ages.items(), INPUTS)
    )
    subtask = Text.assemble(
        (bar(1.0 + view.subtask_value, 16), LABEL),
        f"  {figure(view.subtask_value, 'z.2f')}  {printable(view.subtask) or '-'}",
    )
    lines = {
        "task": Text(printable(view.task) or "-", style="bold"),
        "value": value,
        "subtask": subtask,
        "quantiles": spread,
        "inputs": Text(inputs or "-"),
    }
    return head(view.state, Text(_age(view)), lines)


def _chart(
    title: str, rows: Sequence[str], levels: Sequence[str], view: WatchView
) -> RenderableType:
    colour = state_colour(view.state)
    lines = [Text(title, style="bold")]
    for level, row in zip(levels, rows, strict=True):
        line = Text.assemble((f"{level:>3} ", LABEL), (row, colour))
        line.no_wrap, line.overflow = True, "crop"
        lines.append(line)
    return Group(*lines)


def _age(view: WatchView) -> str:
    return "no estimate yet" if math.isnan(view.age) else f"{figure(view.age, '.2f')} s old"


def _quantiles(view: WatchView) -> str:
    return "  ".join(
        f"{100 * level:.0f} % {figure(value, 'z.2f')}"
        for level, value in islice(view.quantiles.items(), QUANTILES)
    )


def _resampled(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value at evenly spaced times up to the newest one (COLUMNS,); NaN before the first."""
    known = np.isfinite(times) & ~np.isnan(values)
    if not known.any():
        return np.full(COLUMNS, math.nan)
    at = times[-1] + np.linspace(-SPAN, 0.0, COLUMNS)
    return np.interp(at, times[known], values[known], left=math.nan)


def _binned(probabilities: np.ndarray) -> np.ndarray:
    """The probability that falls in each column (COLUMNS,)."""
    mass = np.clip(np.nan_to_num(probabilities), 0.0, 1.0)
    column = np.arange(len(mass)) * COLUMNS // max(len(mass), 1)
    return np.bincount(column, mass, COLUMNS)
