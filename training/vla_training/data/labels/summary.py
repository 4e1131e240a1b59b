# SPDX-License-Identifier: Apache-2.0
"""How the labels of a dataset are distributed, task by task."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from vla_training.data.errors import DataError
from vla_training.data.labels.columns import read_frames
from vla_training.data.labels.frame_labels import LABELS, POSITIVE, TASK, UNLABELLED
from vla_training.data.labels.metadata import read_info
from vla_training.data.labels.record import read_record

BINS = 24
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of a dataset.

    Attributes:
        tasks: Texts.
        task: (N,) which of them.
        columns: (N,) float64 by name, in the order of ``LABELS``; NaN where there is no label.
    """

    tasks: tuple[str, ...]
    task: npt.NDArray[Any]
    columns: Mapping[str, npt.NDArray[np.float64]]

    def by_task(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Texts of the tasks that occur, and where (N,)."""
        for code in np.unique(self.task):
            yield self.tasks[code], self.task == code


def read_labelled(root: Path) -> Labelled:
    """Reads the labels that a dataset has.

    Raises:
        DataError: It cannot be read.
    """
    info = read_info(root)
    made = (read_record(root) or {}).get("columns", ())
    there = [name for name in LABELS if name in made]
    frames = read_frames(root, info, [TASK, *there])
    columns = {name: frames.columns[name].astype(np.float64) for name in there}
    if POSITIVE in columns:
        columns[POSITIVE][columns[POSITIVE] == UNLABELLED] = np.nan
    task = frames.columns[TASK]
    return Labelled(_tasks(root, int(task.max()) + 1), task, columns)


def histogram(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Counts (BINS,) and edges (BINS + 1,) of what is finite, of which there is some."""
    finite = values[np.isfinite(values)]
    low, high = finite.min(), finite.max()
    return np.histogram(finite, BINS, (low, high if high > low else low + 1e-3))


def summary(labelled: Labelled) -> str:
    """Lines for a terminal: of every task and label a histogram, its ends and its median."""
    lines = []
    for task, here in labelled.by_task():
        lines.append(f"{task[:80]}: {here.sum()} frames")
        for name, column in labelled.columns.items():
            values = column[here]
            values = values[np.isfinite(values)]
            if not values.size:
                lines.append(f"  {name:15} none")
            elif name == POSITIVE:
                lines.append(f"  {name:15} {values.mean():.1%}")
            else:
                counts, _ = histogram(values)
                heights = np.ceil(counts * (len(_BARS) - 1) / counts.max()).astype(int)
                bars = "".join(_BARS[height] for height in heights)
                lines.append(
                    f"  {name:15} {values.min():7.3f} {bars} {values.max():.3f}, "
                    f"median {np.median(values):.3f}"
                )
    return "\n".join(lines)


def _tasks(root: Path, count: int) -> tuple[str, ...]:
    path = root / "meta/tasks.parquet"
    try:
        rows = pq.read_table(path).to_pylist()
        texts = {row.pop("task_index"): str(next(iter(row.values()))) for row in rows}
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise DataError(f"{path} cannot be read: {error!s:.200}") from error
    return tuple(texts.get(code, f"task {code}") for code in range(count))
