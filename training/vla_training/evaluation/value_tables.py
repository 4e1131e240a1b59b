# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a value function on a terminal."""

import sys
from collections.abc import Callable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_nodes.display.style import printable
from vla_training.evaluation.value_evaluation import MODEL, ValueResults
from vla_training.evaluation.value_metrics import LEVELS, ORDERED, Metrics

_MAX_TASKS = 20
_PIPED_WIDTH = 160  # columns, where no terminal says how wide it is

_ROWS: dict[str, Callable[[Metrics], str]] = {
    "loss (nat)": lambda m: _figure(m.loss),
    "MAE": lambda m: _figure(m.mae),
    "top-1": lambda m: _share(m.top1),
    "top-5": lambda m: _share(m.top5),
    "calibration error": lambda m: _figure(m.calibration_error),
    "rank correlation in successes": lambda m: _figure(m.rank_correlation),
    f"successes above {ORDERED:g}": lambda m: _share(m.ordered),
    "AUC of the final value": lambda m: _figure(m.separation.final),
    "AUC of the last quarter": lambda m: _figure(m.separation.last_quarter),
}


def print_report(results: ValueResults) -> None:
    """Prints tables to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)

    def show(title: str, table: Table) -> None:
        console.print(Text(title, style="bold"), table)

    show("against the labels", _overall(results.total))
    show("share of returns at or below the predicted quantile", _calibration(results.total))
    if len(results.tasks) > 1:
        show("by task", _tasks(results.tasks))
    counts = results.total[MODEL].separation
    console.print(
        f"{len(results.frames)} frames of {counts.successes} successful and {counts.failures} "
        "failed episodes"
    )
    if counts.unknown:
        console.print(
            f"{counts.unknown} episodes of unknown outcome: left out of AUC and rank correlation"
        )
    if counts.missing:
        console.print(f"no AUC: {counts.missing}")
    if results.left_out:
        console.print(f"{results.left_out} frames have no label and were left out")


def _overall(total: Mapping[str, Metrics]) -> Table:
    table = _table("", *total)
    for name, show in _ROWS.items():
        table.add_row(name, *map(show, total.values()))
    return table


def _calibration(total: Mapping[str, Metrics]) -> Table:
    table = _table("quantile", *total)
    for place, level in enumerate(LEVELS):
        shares = (_share(metrics.calibration[place]) for metrics in total.values())
        table.add_row(f"{level:g}", *shares)
    return table


def _tasks(tasks: Mapping[str, Mapping[str, Metrics]]) -> Table:
    """The tasks with the most frames; losses and errors of all, the rest of the model."""
    names = next(iter(tasks.values()))
    table = _table("task", "frames", *(f"loss\n{n}" for n in names), *(f"MAE\n{n}" for n in names))
    for title in ("rank\ncorrelation", "AUC\nfinal", "AUC\nlast quarter"):
        table.add_column(title, justify="right")
    ordered = sorted(tasks.items(), key=lambda task: -task[1][MODEL].frames)
    for task, metrics in ordered[:_MAX_TASKS]:
        ours = metrics[MODEL]
        figures = [
            *(one.loss for one in metrics.values()),
            *(one.mae for one in metrics.values()),
            ours.rank_correlation,
            ours.separation.final,
            ours.separation.last_quarter,
        ]
        table.add_row(Text(printable(task, 60)), str(ours.frames), *map(_figure, figures))
    if len(tasks) > _MAX_TASKS:
        table.add_row(f"and {len(tasks) - _MAX_TASKS} more")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
