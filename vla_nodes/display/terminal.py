# SPDX-License-Identifier: Apache-2.0
"""A run on a terminal: a page for ``rich.live.Live`` and a line for a log.

The page fits 80 x 24 characters and says as much without colours. Texts become ``Text`` objects,
so that markup in them stays text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vla_nodes.display.style import AMBER, GREEN, GREY, RED, SKY, figure, printable, state_colour
from vla_nodes.display.terminal_parts import LABEL, arrow, bar, head

Level = Literal["warn", "error", "stale"]

# Rows that leave room for the rest in 24 lines; what is more is counted in the heading.
ROWS = 7
NODES = 9
NODE_COLUMNS = 3
FAULTS = 3

ERROR_SCALE = 0.1  # rad or m that fill a joint's bar
LEVEL_COLOURS: Mapping[str, str] = {"error": RED, "stale": RED, "warn": AMBER}
NODE_MARKS = {"active": ("●", GREEN), "inactive": ("○", AMBER), "unconfigured": ("○", AMBER)}


@dataclass(frozen=True)
class Fault:
    """What a node reports as wrong."""

    node: str
    message: str
    level: Level


@dataclass(frozen=True)
class RunView:
    """What is known of a run right now; NaN stands for an unknown number.

    Attributes:
        task: In plain words.
        subtask: In plain words.
        state: ``running``, ``success``, ``stalled``, ``aborted``, ``e-stop`` or another word.
        elapsed: Seconds since the task began.
        limit: Seconds that the task may take.
        value: In [-1, 0].
        trend: Of the value, per second.
        energy: Of the latest chunk.
        joint_errors: Commanded minus measured position by joint, rad or m.
        latency_p50: Of computing a chunk, seconds.
        latency_p99: Of computing a chunk, seconds.
        chunk_rate: Hz.
        command_rate: Hz.
        rates: Hz by stream.
        ages: Seconds since the newest message, by stream.
        nodes: Lifecycle state by node.
        faults: In any order; the worst are shown first.
    """

    task: str = ""
    subtask: str = ""
    state: str = "idle"
    elapsed: float = math.nan
    limit: float = math.nan
    value: float = math.nan
    trend: float = math.nan
    energy: float = math.nan
    joint_errors: Mapping[str, float] = field(default_factory=dict)
    latency_p50: float = math.nan
    latency_p99: float = math.nan
    chunk_rate: float = math.nan
    command_rate: float = math.nan
    rates: Mapping[str, float] = field(default_factory=dict)
    ages: Mapping[str, float] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    faults: Sequence[Fault] = ()


def render(view: RunView) -> RenderableType:
    """Lay the page out, as wide as the console is."""
    halves = Table.grid(expand=True, padding=(0, 4, 0, 0))
    halves.add_column(ratio=1)
    halves.add_column(ratio=1)
    halves.add_row(_joints(view), _streams(view))
    return Group(_head(view), Text(), halves, Text(), _nodes(view), _faults(view))


def summary_line(view: RunView) -> str:
    """One plain line, of at most 240 characters."""
    worst = max(view.joint_errors.items(), key=lambda item: _size(item[1]), default=("", math.nan))
    parts = [
        f"{printable(view.state, 20)} {_of_limit(view)}",
        f"value {figure(view.value, '.2f')} ({figure(view.trend, '+.3f')}/s)",
        f"energy {figure(view.energy, '.2f')}",
        f"error {printable(worst[0], 20)} {figure(worst[1], '+.3f')}",
        _policy(view),
        f"commands {figure(view.command_rate, '.0f')} Hz",
        printable(view.subtask, 60) or "-",
    ]
    faults = _by_severity(view.faults)
    if faults:
        parts.append(f"{len(faults)} faults: {printable(faults[0].node, 30)}: {faults[0].message}")
    return printable(" | ".join(parts), 240)


def _head(view: RunView) -> Table:
    colour = state_colour(view.state)
    share = view.elapsed / view.limit if view.limit > 0 else math.nan
    value = Text.assemble(
        (bar(1 + view.value, 16), SKY),
        f"  {figure(view.value, '.2f')}  {arrow(view.trend)}{figure(view.trend, '+.3f')}/s",
        ("    energy  ", LABEL),
        figure(view.energy, ".2f"),
    )
    rates = Text.assemble(
        _policy(view), ("    commands  ", LABEL), f"{figure(view.command_rate, '.1f')} Hz"
    )
    lines = {
        "task": Text(printable(view.task) or "-", style="bold"),
        "subtask": Text(printable(view.subtask) or "-"),
        "value": value,
        "chunks": rates,
    }
    time = Text.assemble((bar(share, 16), colour), f"  {_of_limit(view)}")
    return head(view.state, time, lines)


def _joints(view: RunView) -> Table:
    table = _columns("JOINTS", len(view.joint_errors), "error", "rad, m")
    table.columns[1].justify = "left"  # Justified right, a bar would lose the blanks at its end.
    for joint, error in list(view.joint_errors.items())[:ROWS]:
        colour = RED if _size(error) > ERROR_SCALE else SKY
        bar = Text(_signed_bar(error / ERROR_SCALE, 4), style=colour)
        table.add_row(Text(printable(joint, 60)), bar, Text(figure(error, "+.4f")))
    return table


def _streams(view: RunView) -> Table:
    names = list(dict.fromkeys([*view.rates, *view.ages]))
    table = _columns("STREAMS", len(names), "Hz", "age (s)")
    for name in names[:ROWS]:
        rate, age = view.rates.get(name, math.nan), view.ages.get(name, math.nan)
        shown = (printable(name, 60), figure(rate, ".1f"), figure(age, ".3f"))
        table.add_row(*(Text(text) for text in shown))
    return table


def _columns(title: str, count: int, *headings: str) -> Table:
    """A table whose first column takes what room is left, and whose others stand to the right."""
    table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(_heading(title, count, ROWS), no_wrap=True, overflow="ellipsis", ratio=1)
    for heading in headings:
        table.add_column(Text(heading, style=LABEL), justify="right", no_wrap=True)
    return table


def _nodes(view: RunView) -> Table:
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for _ in range(NODE_COLUMNS):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    cells = []
    for node, state in list(view.nodes.items())[:NODES]:
        mark, colour = NODE_MARKS.get(state.lower(), ("✖", RED))
        cells.append(
            Text.assemble((mark, colour), f" {printable(node, 60)} ", (printable(state, 20), LABEL))
        )
    table.add_row(_heading("NODES", len(view.nodes), NODES))
    for row in batched(cells, NODE_COLUMNS):
        table.add_row(*row)
    return table


def _faults(view: RunView) -> Group:
    lines = [_heading("FAULTS", len(view.faults), FAULTS)]
    for fault in _by_severity(view.faults)[:FAULTS]:
        style = LEVEL_COLOURS.get(fault.level, GREY)
        text = f"{fault.level} {printable(fault.node, 40)}: {printable(fault.message)}"
        lines.append(Text(text, style=style, no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def _heading(title: str, count: int, shown: int) -> Text:
    rest = f" ({shown} of {count})" if count > shown else "" if count else " none"
    return Text.assemble((title, "bold"), (rest, LABEL), no_wrap=True)


def _by_severity(faults: Sequence[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: fault.level == "warn")


def _of_limit(view: RunView) -> str:
    limit = "" if math.isnan(view.limit) else f" of {figure(view.limit, '.0f')}"
    return f"{figure(view.elapsed, '.1f')}{limit} s"


def _policy(view: RunView) -> str:
    p50, p99 = (figure(1e3 * s, ".0f") for s in (view.latency_p50, view.latency_p99))
    return f"{figure(view.chunk_rate, '.1f')} Hz, {p50} ms (p99 {p99} ms)"


def _signed_bar(share: float, width: int) -> str:
    """A bar that grows from its middle to either side, in half characters; share in [-1, 1]."""
    halves = 0 if math.isnan(share) else round(2 * width * min(abs(share), 1.0))
    full, half = "█" * (halves // 2), halves % 2
    left = (half * "▐" + full).rjust(width) if share < 0 else " " * width
    right = (full + half * "▌").ljust(width) if share > 0 else " " * width
    return f"{left}│{right}"


def _size(error: float) -> float:
    return -1.0 if math.isnan(error) else abs(error)
