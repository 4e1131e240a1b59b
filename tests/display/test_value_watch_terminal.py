# SPDX-License-Identifier: Apache-2.0
"""The value's page says what is known, within 80 x 24, whatever it is told."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from vla_nodes.display.terminal_parts import EIGHTHS, area, shown
from vla_nodes.display.watch_terminal import (
    COLUMNS,
    CURVE_ROWS,
    DISTRIBUTION_ROWS,
    WatchView,
    render_watch,
    watch_line,
)

VIEW = WatchView(
    task="clear the table",
    subtask="put the red cube in the tray",
    state="stalled",
    value=-0.5,
    subtask_value=-0.25,
    trend=0.031,
    energy=0.37,
    quantiles={0.1: -0.71, 0.5: -0.52, 0.9: -0.33},
    entropy=2.345,
    probabilities=np.full(201, 1 / 201),
    times=np.array([10.0, 20.0, 30.0]),
    values=np.array([-1.0, -0.5, -0.5]),
    age=0.123,
    input_ages={"front": 0.034, "subtask": 1.25},
)
HOSTILE = "[bold red]x[/] [/nonsense] \x1b[2J\r\n\t\u202e桌子" * 400


def page(view: WatchView) -> list[str]:
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(render_watch(view))
    return console.export_text().splitlines()


def chart(view: WatchView, title: str, rows: int) -> np.ndarray:
    """Height of each column of a chart (COLUMNS,), in eighths of a character."""
    lines = page(view)
    start = next(i for i, line in enumerate(lines) if title in line)
    columns = [line.ljust(4 + COLUMNS)[4:][:COLUMNS] for line in lines[start + 1 :][:rows]]
    return np.array([[EIGHTHS.index(c) for c in row] for row in columns]).sum(axis=0)


@pytest.mark.parametrize(
    "said",
    [
        *("STALLED", "0.12 s old", "clear the table", "put the red cube in the tray"),
        *("-0.50", "+0.031/s", "0.37", "10 % -0.71  50 % -0.52  90 % -0.33", "2.35 nat"),
        *("-0.25", "front 0.034 s", "subtask 1.250 s"),
    ],
)
def test_the_page_tells(said: str) -> None:
    assert any(said in line for line in page(VIEW))


def test_the_curve_follows_the_value_over_time() -> None:
    heights = chart(VIEW, "VALUE OVER 20 s", CURVE_ROWS) / (8 * CURVE_ROWS)
    rising = heights[: COLUMNS // 2]
    assert np.abs(rising - np.linspace(0.0, 0.5, COLUMNS // 2)).max() < 0.03
    assert (heights[COLUMNS // 2 + 1 :] == 0.5).all()


def test_before_the_first_value_the_curve_is_empty() -> None:
    late = replace(VIEW, times=np.array([5.0, 10.0]), values=np.array([-0.2, -0.2]))
    heights = chart(late, "VALUE OVER 20 s", CURVE_ROWS)
    assert np.flatnonzero(heights)[0] == math.ceil(0.75 * (COLUMNS - 1))


def test_the_distribution_stands_where_its_mass_is() -> None:
    mass = np.random.default_rng(1).random(201)
    heights = chart(replace(VIEW, probabilities=mass / mass.sum()), "DISTRIB", DISTRIBUTION_ROWS)
    columns = mass.reshape(COLUMNS, 3).sum(axis=1)
    wanted = 8 * DISTRIBUTION_ROWS * columns / columns.max()
    assert np.abs(heights - wanted).max() <= 0.5


def test_a_column_is_as_high_as_its_share() -> None:
    assert area(np.array([0.0, 0.25, 0.5, 0.75, 1.0, 7.0, math.nan]), 2) == ["   ▄██ ", " ▄████ "]


def test_what_is_unknown_is_a_dash() -> None:
    text = "\n".join(page(WatchView())) + watch_line(WatchView())
    assert "nan" not in text.lower()
    assert "WAITING" in text
    assert "no estimate yet" in text


def crowded(text: str, number: float) -> WatchView:
    numbers = np.full(40, number)
    return WatchView(
        *(text, text, text, number, number, number, number),
        *({number + i: number for i in range(16)}, number, numbers, np.sort(numbers), numbers),
        *(number, {f"{text}{i}": number for i in range(16)}),
    )


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=300) | st.just(HOSTILE), number=st.floats())
def test_anything_fits_80_by_24(text: str, number: float) -> None:
    view = crowded(text, number)
    lines = page(view)
    assert len(lines) <= 23  # One line is left for the cursor.
    assert max(cell_len(line) for line in lines) <= 80
    line = watch_line(view)
    assert line.isprintable()
    assert len(line) <= 240


def test_markup_and_control_characters_are_not_obeyed() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(render_watch(crowded("[bold red]x[/] \x1b[2J", 0.0)))
    written = console.file.getvalue()
    assert "\x1b[2J" not in written
    assert "[bold red]x[/]" in written


def test_the_line_says_the_same_in_short() -> None:
    assert watch_line(VIEW) == (
        "stalled | value -0.50 (+0.031/s) | 10 % -0.71 50 % -0.52 90 % -0.33 | subtask -0.25 | "
        "energy 0.37 | 0.12 s old | put the red cube in the tray"
    )


def test_without_a_terminal_a_line_is_printed_and_not_each_time() -> None:
    console = Console(file=io.StringIO())
    with shown(console, render_watch, watch_line) as show:
        for _ in range(50):
            show(VIEW)
    assert console.file.getvalue() == watch_line(VIEW) + "\n"


def test_on_a_terminal_the_newest_page_stays() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    with shown(console, render_watch, watch_line) as show:
        show(VIEW)
        show(replace(VIEW, task="set the table"))
    assert "set the table" in console.file.getvalue().split("VALUE OVER")[-2]
