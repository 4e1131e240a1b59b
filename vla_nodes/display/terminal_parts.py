# SPDX-License-Identifier: Apache-2.0
"""What the pages on a terminal are made of: a head, bars and curves of characters."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import numpy as np
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vla_nodes.display.style import GREY, printable, state_colour

LABEL = GREY
LINE_PERIOD = 1.0  # s between the lines where there is no terminal
EIGHTHS = " ▁▂▃▄▅▆▇█"


@contextmanager
def shown[View](
    console: Console, page: Callable[[View], RenderableType], line: Callable[[View], str]
) -> Iterator[Callable[[View], None]]:
    """Show views live: a page on a terminal, a line a second elsewhere.

    Args:
        console: Where to.
        page: Lays a view out for a terminal.
        line: Says a view in one line.

    Yields:
        Shows a view in place of the one before.
    """
    if console.is_terminal:
        with Live(console=console, refresh_per_second=10) as live:
            yield lambda view: live.update(page(view))
        return
    due = -math.inf

    def show(view: View) -> None:
        nonlocal due
        if monotonic() >= due:
            due = monotonic() + LINE_PERIOD
            print(line(view), file=console.file, flush=True)

    yield show


def head(state: str, beside: Text, lines: Mapping[str, Text]) -> Table:
    """The state as a badge with a line beside it, and labelled lines below."""
    badge = Text(f" {printable(state.upper(), 20)} ", style=f"bold reverse {state_colour(state)}")
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_row(badge, beside)
    for label, line in lines.items():
        table.add_row(Text(label, style=LABEL), line)
    return table


def bar(share: float, width: int) -> str:
    """A bar of ``width`` characters, filled to a share in [0, 1]."""
    filled = 0 if math.isnan(share) else round(width * min(max(share, 0.0), 1.0))
    return "━" * filled + "┄" * (width - filled)


def arrow(trend: float) -> str:
    """Where a value is going, by its slope per second; nothing when it is NaN."""
    if math.isnan(trend):
        return ""
    return "↗ " if trend > 0.005 else "↘ " if trend < -0.005 else "→ "


def area(shares: np.ndarray, rows: int) -> list[str]:
    """A chart of filled columns in eighths of a character.

    Args:
        shares: Height of each column (N,) in [0, 1]; NaN leaves it empty.
        rows: Characters that a full column is high.

    Returns:
        The rows, each N characters, the top one first.
    """
    heights = np.round(8 * rows * np.clip(np.nan_to_num(shares), 0.0, 1.0)).astype(int)
    filled = np.clip(heights - 8 * np.arange(rows)[::-1, None], 0, 8)
    return ["".join(EIGHTHS[eighths] for eighths in row) for row in filled]
