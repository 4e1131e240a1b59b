# SPDX-License-Identifier: Apache-2.0
"""The evaluation of energy models on a terminal."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_nodes.display.style import printable
from vla_training.evaluation.energy_checkpoints import Judge
from vla_training.evaluation.energy_choice import Figure
from vla_training.evaluation.energy_evaluation import EnergyResults, SampleResults
from vla_training.evaluation.energy_separation import MEAN, Interval, Separation

_MAX_TASKS = 20
_PIPED_WIDTH = 160  # columns, where no terminal says how wide it is


def print_report(judges: Sequence[Judge], results: EnergyResults) -> None:
    """Prints tables to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)

    def show(title: str, table: Table) -> None:
        console.print(Text(title, style="bold"), table)

    show("options", _options(judges))
    title = "area under the ROC curve: the expert's chunks against others; by task, of all kinds"
    show(title, _areas(results))
    title = "share of others above the expert's chunk of the same frame"
    show(title, _kinds(results, lambda one: _share(one.same_frame)))
    if results.samples is None:
        console.print("best of K: left out, the policy drew no samples")
    else:
        _show_samples(show, results.joints, results.samples)
    frames = next(iter(results.scored.values()))
    console.print(
        f"{len(frames.expert)} frames of {len(np.unique(frames.episode))} episodes in "
        f"{results.seconds:.1f} s"
    )


def _options(judges: Sequence[Judge]) -> Table:
    table = _table("", [judge.name for judge in judges])
    for name in dict.fromkeys(name for judge in judges for name in judge.options):
        table.add_row(name, *(_option(judge.options.get(name)) for judge in judges))
    return table


def _areas(results: EnergyResults) -> Table:
    """Of every kind, and of every task over all kinds."""
    table = _kinds(results, lambda one: _with_interval(one.auroc, one.interval))
    if len(results.tasks) > 1:
        table.add_section()
        tasks = sorted(results.tasks, key=lambda task: -results.frames[task])
        for task in tasks[:_MAX_TASKS]:
            areas = (kinds[MEAN] for kinds in results.tasks[task].values())
            cells = (_with_interval(one.auroc, one.interval) for one in areas)
            table.add_row(_text(task), *cells)
        if len(tasks) > _MAX_TASKS:
            table.add_row(f"and {len(tasks) - _MAX_TASKS} more")
    return table


def _kinds(results: EnergyResults, show: Callable[[Separation], str]) -> Table:
    table = _table("", list(results.total))
    for kind in next(iter(results.total.values())):
        if kind == MEAN:
            table.add_section()
        table.add_row(kind, *(show(kinds[kind]) for kinds in results.total.values()))
    return table


def _show_samples(
    show: Callable[[str, Table], None], joints: Sequence[str], samples: SampleResults
) -> None:
    table = _table("K", [*samples.chosen, "mean of samples", "best sample"])
    predictors = [*samples.chosen.values(), samples.mean, samples.best]
    for row in zip(*predictors, strict=True):
        table.add_row(str(row[0].count), *map(_rms, row))
    show("RMS error of the sample of K with the lowest energy, normalised; change to any", table)
    any_sample, taken = predictors[0][0], [figures[-1] for figures in predictors]
    table = _table("joint", ["any sample", *samples.chosen, "mean of samples", "best sample"])
    for joint, name in enumerate(joints):
        table.add_row(_text(name), *(f"{one.joints[joint]:.4g}" for one in (any_sample, *taken)))
    show(f"RMS error in each joint's own unit, K = {taken[0].count}", table)
    table = _table("", list(samples.correlations))
    found = samples.correlations.values()
    table.add_row("within a frame", *(_with_interval(one.within, one.interval) for one in found))
    table.add_row("across frames", *(_with_interval(one.across, None) for one in found))
    show("rank correlation of a sample's energy and its error", table)


def _table(first: str, others: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(_text(name), justify="right", overflow="fold")
    return table


def _text(text: str) -> Text:
    """From outside: no markup, and not long."""
    return Text(printable(text, 60))


def _option(value: Any) -> Text:
    words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return Text("-" if value is None else printable(words, 80))


def _with_interval(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _rms(one: Figure) -> str:
    if one.count == 1:
        return f"{one.rms:.4f}"
    change = f"{one.rms:.4f} {one.change:+.1%}"
    if one.interval is None:
        return change
    low, high = (100 * end for end in one.interval)
    return f"{change} [{low:+.1f}, {high:+.1f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
