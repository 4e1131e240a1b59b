# SPDX-License-Identifier: Apache-2.0
"""What a calibration came to, on a terminal and as a file."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_nodes.display.style import printable
from vla_nodes.models.energy_calibration import EnergyCalibration
from vla_training.data.errors import DataError
from vla_training.data.files import write_whole
from vla_training.energy.calibration_plot import plot_energies
from vla_training.energy.conformal import (
    CONFIDENCE,
    ExpertEnergies,
    Interval,
    Reliability,
    least_chunks,
    reliability,
    thresholds_of,
)
from vla_training.energy.scoring import Scores

REPORT, PLOT = "report.json", "energies.png"
_MAX_TASKS = 20
_PIPED_WIDTH = 160  # columns, where no terminal says how wide it is


@dataclass(frozen=True)
class TaskThreshold:
    """The threshold of a task, or of all together.

    Attributes:
        energy: Above which a chunk is rejected.
        own: Whether it follows from this task's chunks alone.
        rejects: Whether any energy is above it.
        chunks: Of the validation part.
        episodes: That these come from.
        test: How many expert chunks of the test part it rejects; None where there are none.
    """

    energy: float
    own: bool
    rejects: bool
    chunks: int
    episodes: int
    test: Reliability | None


@dataclass(frozen=True)
class Rejected:
    """Of chunks of one kind in the frames of the test part, the share rejected; None of none."""

    chunks: int
    share: float | None


@dataclass(frozen=True)
class CalibrationReport:
    """What came out.

    Attributes:
        epsilon: Share of expert chunks that may be rejected.
        pooled: Threshold for tasks without an own one. The test is of all tasks, each with its
            threshold.
        tasks: By task.
        rejected: By kind of chunk, the expert's first; none without a test part.
    """

    epsilon: float
    pooled: TaskThreshold
    tasks: Mapping[str, TaskThreshold]
    rejected: Mapping[str, Rejected]


def make_report(
    calibration: EnergyCalibration,
    experts: ExpertEnergies,
    test: Scores | None,
    saturated: float = math.inf,
) -> CalibrationReport:
    """Judges a calibration.

    Args:
        calibration: To be judged.
        experts: Of the validation part, which it follows from.
        test: Of expert and perturbed chunks in the test part; None where there is none.
        saturated: From which energy on the model tells chunks apart no more.
    """
    held = test.experts if test else None

    def judged(energy: float, own: bool, task: str | None) -> TaskThreshold:
        ours = experts if task is None else experts.of(task)
        theirs = held if task is None or held is None else held.of(task)
        return TaskThreshold(
            energy=energy,
            own=own,
            rejects=energy < saturated,
            chunks=len(ours),
            episodes=len(np.unique(ours.episodes)),
            test=reliability(theirs, calibration) if theirs else None,
        )

    tasks = sorted({*experts.tasks, *(held.tasks if held else ())})
    return CalibrationReport(
        epsilon=calibration.epsilon,
        pooled=judged(calibration.pooled.energy, True, None),
        tasks={
            task: judged(calibration.threshold(task), task in calibration.tasks, task)
            for task in tasks
        },
        rejected=_rejected(test, calibration) if test else {},
    )


def write_report(
    folder: Path, settings: Mapping[str, Any], report: CalibrationReport, test: Scores | None
) -> None:
    """Writes ``report.json``, and ``energies.png`` where there is a test part.

    Args:
        folder: For them.
        settings: Of the calibration; they come first.
        report: What came out.
        test: That it was held against.

    Raises:
        DataError: The disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for before in (folder / REPORT, folder / PLOT):  # what lies there belongs together
            before.unlink(missing_ok=True)
        if test:
            _plot(folder / PLOT, report, test)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    write_whole(folder / REPORT, {**settings, **asdict(report)})


def print_report(report: CalibrationReport) -> None:
    """Prints tables to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)

    def show(title: str, table: Table) -> None:
        console.print(Text(title, style="bold"), table)

    by_chunks = sorted(report.tasks.items(), key=lambda task: -task[1].chunks)
    rows = [("all", report.pooled), *by_chunks[:_MAX_TASKS]]
    show("thresholds", _thresholds(rows))
    for line in _remarks(rows, report.epsilon):
        console.print(Text(line))
    if report.pooled.test is None:
        console.print("no test part: nothing says how many expert chunks will be rejected")
    else:
        show("expert chunks of the test part that are rejected", _rejections(rows))
    if len(by_chunks) > _MAX_TASKS:
        console.print(f"and {len(by_chunks) - _MAX_TASKS} more tasks")
    if report.rejected:
        show("chunks in frames of the test part", _kinds(report))
    if report.pooled.test and report.pooled.test.by_episode.low > report.epsilon:
        console.print(
            f"more than {report.epsilon:.1%} of the expert chunks of the test part are rejected: "
            "its episodes differ from those of the validation part, or these are too few"
        )


def _rejected(test: Scores, calibration: EnergyCalibration) -> dict[str, Rejected]:
    limits = thresholds_of(calibration, test.tasks)[:, None]
    rejected = {}
    for kind, energies in test.energies.items():
        count = int(np.isfinite(energies).sum())
        share = float((energies > limits).sum() / count) if count else None
        rejected[kind] = Rejected(count, share)
    return rejected


def _plot(path: Path, report: CalibrationReport, test: Scores) -> None:
    shares = {kind: one.share for kind, one in report.rejected.items() if one.share is not None}
    plot_energies(
        path,
        energies={
            kind: found[np.isfinite(found)]
            for kind, found in test.energies.items()
            if kind in shares
        },
        rejected=shares,
        pooled=report.pooled.energy,
        of_tasks=[one.energy for one in report.tasks.values() if one.own],
    )


def _thresholds(rows: Sequence[tuple[str, TaskThreshold]]) -> Table:
    table = _table("task", "threshold", "validation\nchunks", "episodes")
    for task, one in rows:
        energy = f"{one.energy:.4f}" if one.own else "that of all"
        table.add_row(Text(printable(task, 60)), energy, str(one.chunks), str(one.episodes))
    return table


def _remarks(rows: Sequence[tuple[str, TaskThreshold]], epsilon: float) -> list[str]:
    """Thresholds that are not what one would take them for."""
    least, remarks = least_chunks(epsilon), []
    for task, one in rows:
        name = printable(task, 60)
        if not one.own:
            remarks.append(
                f"{name}: {one.chunks} chunks, and an own threshold takes {least}: judged by that "
                "of all"
            )
        if not one.rejects:
            remarks.append(
                f"{name}: no chunk is ever rejected, expert chunks have the highest energy there is"
            )
    return remarks


def _rejections(rows: Sequence[tuple[str, TaskThreshold]]) -> Table:
    level = f"{CONFIDENCE:.0%}"
    table = _table("task", "chunks", "rejected", level, "episodes", "with one", "rejected", level)
    for task, test in ((task, one.test) for task, one in rows if one.test):
        table.add_row(
            Text(printable(task, 60)),
            *(str(test.chunks), *_figures(test.by_chunk)),
            *(str(test.episodes), str(test.touched), *_figures(test.by_episode)),
        )
    return table


def _kinds(report: CalibrationReport) -> Table:
    table = _table("kind", "chunks", "rejected")
    for kind, one in report.rejected.items():
        table.add_row(kind, str(one.chunks), "-" if one.share is None else f"{one.share:.1%}")
    return table


def _figures(interval: Interval) -> tuple[str, str]:
    return f"{interval.share:.1%}", f"{interval.low:.1%} to {interval.high:.1%}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table
