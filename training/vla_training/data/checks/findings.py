# SPDX-License-Identifier: Apache-2.0
"""What a check found, and how it is shown: a table to read, JSON to keep."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_training.data.bags.errors import shown

Level = Literal["ok", "warn", "fail"]

_COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_PIPED_WIDTH = 160  # columns, where no terminal says how wide it is


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: Name of the check, such as ``camera_gap``.
        subject: What it looked at: a topic, a camera, a joint, an episode, a file.
        level: ``fail`` for data that should not be trained on as it is.
        text: One sentence, with the time or the frame where there is one.
        measured: The figure, or None where there is none.
        limit: The bound that it was held against, or None.
    """

    check: str
    subject: str
    level: Level
    text: str
    measured: float | int | None = None
    limit: float | int | None = None


def count(number: int, noun: str) -> str:
    """The number with its noun in the singular or the plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def graded(fails: object, warns: object = False) -> Level:
    """The level of a finding by whether it fails, or else is worth a warning."""
    return "fail" if fails else "warn" if warns else "ok"


def worst(findings: Iterable[Finding]) -> Level:
    """The gravest level there is."""
    levels = {finding.level for finding in findings}
    return next((level for level in ("fail", "warn") if level in levels), "ok")


def print_findings(title: str, findings: Sequence[Finding]) -> None:
    """Prints a table, the gravest last, and a line that sums it up, to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)
    table = Table(title=Text(shown(title)), title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name in ("level", "check", "subject"):
        table.add_column(name, overflow="fold")
    for name in ("measured", "limit"):
        table.add_column(name, justify="right")
    table.add_column("what", overflow="fold", ratio=1)
    for finding in sorted(findings, key=lambda finding: list(_COLOURS).index(finding.level)):
        table.add_row(
            Text(finding.level, style=_COLOURS[finding.level]),
            finding.check,
            Text(shown(finding.subject)),
            _figure(finding.measured),
            _figure(finding.limit),
            Text(shown(finding.text, 600)),
        )
    console.print(table)
    levels = Counter(finding.level for finding in findings)
    summary = ", ".join(f"{levels[level]} {level}" for level in _COLOURS)
    level = worst(findings)
    console.print(Text(f"{level}: {summary}", style=_COLOURS[level]))


def as_json(kind: str, subject: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as plain values for a JSON file."""
    levels = Counter(finding.level for finding in findings)
    return {
        "kind": kind,
        "path": str(subject),
        "level": worst(findings),
        "counts": {level: levels[level] for level in _COLOURS},
        "findings": [
            {key: _plain(value) for key, value in asdict(finding).items()} for finding in findings
        ],
    }


def _figure(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """JSON has no infinities and no numpy scalars."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
