# SPDX-License-Identifier: Apache-2.0
"""The terminal view says what is known, within 80 x 24, whatever it is told."""

import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from vla_nodes.display.terminal import Fault, RunView, render, summary_line

RUN = RunView(
    task="clear the table",
    subtask="put the red cube in the tray",
    state="running",
    elapsed=12.34,
    limit=60.0,
    value=-0.5,
    trend=0.031,
    energy=0.37,
    joint_errors={"pan": 0.025, "lift": -0.05, "roll": 0.4, "gripper": math.nan},
    latency_p50=0.085,
    latency_p99=0.121,
    chunk_rate=4.96,
    command_rate=99.8,
    rates={"front": 29.9, "wrist": 29.8},
    ages={"front": 0.012, "scene": 0.1},
    nodes={"policy": "active", "recorder": "inactive", "sim": "finalized"},
    faults=(
        Fault("policy", "chunk refused", "warn"),
        Fault("commander", "no chunk for 0.4 s", "error"),
    ),
)
HOSTILE = "[bold red]x[/] [/nonsense] \x1b[2J\r\n\t\u202e桌子" * 400


def page(view: RunView, width: int = 80) -> list[str]:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(render(view))
    return console.export_text().splitlines()


def line_with(view: RunView, word: str) -> str:
    return next(line for line in page(view) if word in line)


@pytest.mark.parametrize(
    "said",
    [
        *("RUNNING", "clear the table", "put the red cube in the tray", "12.3 of 60 s"),
        *("-0.50", "+0.031/s", "0.37", "85 ms (p99 121 ms)", "5.0 Hz", "99.8 Hz"),
        *("29.9", "0.012", "0.100", "-0.0500", "policy active", "recorder inactive"),
        *("warn policy: chunk refused", "error commander: no chunk for 0.4 s"),
    ],
)
def test_the_page_tells(said: str) -> None:
    assert any(said in line for line in page(RUN))


def test_the_value_bar_is_filled_to_the_value() -> None:
    for value, filled in ((-1.0, 0), (-0.5, 8), (0.0, 16), (5.0, 16), (math.nan, 0)):
        line = line_with(RunView(value=value), "value ")
        assert (line.count("━"), line.count("┄")) == (filled, 16 - filled)


def test_joint_bars_grow_from_one_middle_to_the_side_of_the_error() -> None:
    rows = {joint: line_with(RUN, joint)[:40] for joint in RUN.joint_errors}
    middles = {row.index("│") for row in rows.values()}
    assert len(middles) == 1
    middle = middles.pop()
    assert rows["pan"][middle:].startswith("│█ ")
    assert rows["lift"][:middle].endswith(" ██")
    assert rows["roll"][middle:].startswith("│████ ")
    assert "█" not in rows["gripper"]


def test_what_is_unknown_is_a_dash() -> None:
    text = "\n".join(page(RunView())) + summary_line(RunView())
    assert "nan" not in text.lower()
    assert line_with(RUN, "wrist").split()[-3:] == ["wrist", "29.8", "-"]


def test_the_worst_faults_come_first_and_the_rest_are_counted() -> None:
    faults = [Fault("a", f"w{i}", "warn") for i in range(5)] + [Fault("b", "late", "stale")]
    lines = page(RunView(faults=faults))
    start = next(i for i, line in enumerate(lines) if "FAULTS (3 of 6)" in line)
    assert [line.strip() for line in lines[start + 1 :] if line.strip()] == [
        "stale b: late",
        "warn a: w0",
        "warn a: w1",
    ]


def crowded(text: str, number: float) -> RunView:
    many = {f"{text}{i}": number for i in range(30)}
    return RunView(
        *(text, text, text, number, number, number, number, number, many),
        *(number, number, number, number, many, many, dict.fromkeys(many, text)),
        [Fault(text, text, "error")] * 30,
    )


@pytest.mark.parametrize("view", [RUN, RunView(), crowded(HOSTILE, -1e300), crowded("", math.inf)])
def test_the_page_fits_80_by_24(view: RunView) -> None:
    lines = page(view)
    assert len(lines) <= 23  # One line is left for the cursor.
    assert max(cell_len(line) for line in lines) <= 80


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=300), number=st.floats())
def test_anything_fits(text: str, number: float) -> None:
    view = crowded(text, number)
    lines = page(view)
    assert len(lines) <= 23
    assert max(cell_len(line) for line in lines) <= 80
    line = summary_line(view)
    assert line.isprintable()
    assert len(line) <= 240


def test_markup_and_control_characters_are_not_obeyed() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(render(crowded("[bold red]x[/] \x1b[2J", 0.0)))
    written = console.file.getvalue()
    assert "\x1b[2J" not in written
    assert "[bold red]x[/]" in written


def test_the_summary_is_one_line_with_the_worst_joint_and_fault() -> None:
    assert summary_line(RUN) == (
        "running 12.3 of 60 s | value -0.50 (+0.031/s) | energy 0.37 | error roll +0.400 | "
        "5.0 Hz, 85 ms (p99 121 ms) | commands 100 Hz | put the red cube in the tray | "
        "2 faults: commander: no chunk for 0.4 s"
    )
