# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a policy on a terminal."""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_nodes.display.style import figure, printable
from vla_training.evaluation.action_errors import ActionErrors, Array
from vla_training.evaluation.policy_evaluation import Recording, Results
from vla_training.evaluation.subtask_scores import Confusion, Planned, confusion, score_subtasks

_MAX_TASKS = 20
_MAX_CONFUSED = 8
_PIPED_WIDTH = 160  # columns, where no terminal says how wide it is


def print_report(recording: Recording, results: Results) -> None:
    """Prints tables to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)
    total, factors = results.total, recording.factors

    def show(title: str, table: Table) -> None:
        console.print(Text(title, style="bold"), table)

    names = recording.items.schema.action_names
    show("action errors, in each joint's own unit", _joints(names, total, factors))
    show("normalised MAE by step of the chunk", _steps(total, factors))
    if results.planned:
        show("planner", _subtasks(results.planned))
        pairs = [(frame.recorded, frame.chosen) for frame in results.planned]
        title = "frames by recorded subtask (rows) and chosen one (columns)"
        show(title, _confusion(confusion(pairs, _MAX_CONFUSED)))
    else:
        console.print("planner: left out, these episodes have no subtasks")
    if len(results.errors) > 1:
        show(
            "normalised MAE by task, and subtasks that were chosen right", _tasks(results, factors)
        )
    speed = results.count / results.seconds
    console.print(f"{results.count} frames in {results.seconds:.1f} s, {speed:.1f} /s")


def _joints(names: Sequence[str], total: Mapping[str, ActionErrors], factors: Array) -> Table:
    """Mean errors joint by joint, and of all of them in normalised units."""
    table = _table("joint")
    for predictor in total:
        table.add_column(f"{predictor}\nMAE", justify="right")
        table.add_column("\nRMSE", justify="right")
    overall = [error.over_steps() for error in total.values()]
    normalised = [error.scaled(factors) for error in overall]
    for joint, name in enumerate(names):
        cells = [_figure(part[0, joint]) for e in overall for part in (e.mae, e.rmse)]
        table.add_row(_text(name), *cells)
    table.add_section()
    cells = [_figure(part.mean()) for e in normalised for part in (e.mae, e.rmse)]
    table.add_row("all, normalised", *cells)
    return table


def _steps(total: Mapping[str, ActionErrors], factors: Array) -> Table:
    """Mean absolute errors of all joints at a few steps of the chunk."""
    table = _table("step", *total)
    chunk = len(next(iter(total.values())).count)
    for step in sorted({round(x) for x in np.linspace(1, chunk, 5)}):
        errors = [error.scaled(factors).mae[step - 1].mean() for error in total.values()]
        table.add_row(str(step), *map(_figure, errors))
    return table


def _subtasks(planned: Sequence[Planned]) -> Table:
    table = _table("", "count", "exact")
    scores = score_subtasks(planned)
    table.add_row("written freely", str(scores.frames), f"{scores.written:.1%}")
    table.add_row("chosen among the known", str(scores.frames), f"{scores.chosen:.1%}")
    tokens = sum(frame.tokens for frame in planned)
    table.add_row("tokens, given those before", str(tokens), f"{scores.token_accuracy:.1%}")
    return table


def _confusion(confused: Confusion) -> Table:
    numbers = [str(1 + place) for place in range(len(confused.labels))]
    table = _table("", *numbers, "other")
    labels = [f"{n} {label}" for n, label in zip(numbers, confused.labels, strict=True)]
    for label, row in zip([*labels, "other"], confused.counts.tolist(), strict=True):
        if label != "other" or any(row):
            table.add_row(_text(label), *(str(count) if count else "" for count in row))
    return table


def _tasks(results: Results, factors: Array) -> Table:
    """The tasks with the most frames."""
    tasks = sorted(results.frames, key=lambda task: -results.frames[task])
    table = _table("task", "frames", *results.total, "subtasks")
    for task in tasks[:_MAX_TASKS]:
        errors = (e.over_steps().scaled(factors).mae.mean() for e in results.errors[task].values())
        planned = [frame for frame in results.planned if frame.task == task]
        chosen = f"{score_subtasks(planned).chosen:.1%}" if planned else ""
        table.add_row(_text(task), str(results.frames[task]), *map(_figure, errors), chosen)
    if len(tasks) > _MAX_TASKS:
        table.add_row(f"and {len(tasks) - _MAX_TASKS} more")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _text(text: str) -> Text:
    """From outside: no markup, and not long."""
    return Text(printable(text, 60))


def _figure(value: float) -> str:
    return figure(float(value), ".4f")
