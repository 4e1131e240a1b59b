# SPDX-License-Identifier: Apache-2.0
"""Everything of a LeRobot dataset but the pictures, in memory: 190 MB for a million frames.

LeRobot reads a frame through Hugging Face's library, which builds every row anew; arrays give
it at once, and a forked worker shares them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as arrow
from pyarrow import compute

from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import (
    ADVANTAGE,
    POSITIVE,
    RETURN,
    SUBTASK_RETURN,
    UNLABELLED,
    WEIGHT,
)
from vla_training.data.loading.frame_columns import Columns, Words
from vla_training.data.schema import ACTION, BAG_TIME, OUTCOME, STATE, SUBTASK, Outcome

_UNKNOWN: dict[str, np.generic] = {
    OUTCOME: np.int64(Outcome.UNKNOWN),
    RETURN: np.float32(np.nan),
    SUBTASK_RETURN: np.float32(np.nan),
    ADVANTAGE: np.float32(np.nan),
    POSITIVE: np.int64(UNLABELLED),
    WEIGHT: np.float32(np.nan),
}


@dataclass(frozen=True)
class FrameTable:
    """N frames, episode after episode.

    Attributes:
        episode: (N,) index of the episode in its dataset.
        frame: (N,) place in the episode.
        timestamp: (N,) seconds since the episode's first frame, as LeRobot counts: by frames.
        end: (N,) row behind the last one that follows a frame without a break. A break is the
            end of the episode, or a frame that was left out of it.
        state: (N, S) float32.
        action: (N, A) float32.
        task: Of each frame.
        subtask: Of each frame; empty where there is none.
        labels: (N,) arrays ``outcome``, ``return``, ``subtask_return``, ``advantage``,
            ``positive`` and ``weight``; ``UNKNOWN``, ``UNLABELLED`` for ``positive``, and NaN
            where the dataset has none.
    """

    episode: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.float32]
    end: npt.NDArray[np.int64]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    task: Words
    subtask: Words
    labels: Mapping[str, npt.NDArray[Any]]

    def has(self, name: str) -> npt.NDArray[np.bool_]:
        """(N,) where a frame has that label, or a subtask."""
        if name == SUBTASK:
            return np.array([text != "" for text in self.subtask.texts])[self.subtask.codes]
        values = self.labels[name]
        return values != UNLABELLED if name == POSITIVE else np.isfinite(values)


def read_frame_table(
    root: Path, features: Mapping[str, Any], fps: int, episodes: Collection[int]
) -> FrameTable:
    """Reads the frames of some episodes.

    Args:
        root: Of a LeRobot v3 dataset.
        features: Of its ``info.json``, state and action among them.
        fps: Of the dataset.
        episodes: Indices, each once.

    Raises:
        DataError: The frames cannot be read, do not follow each other, hold a state or an
            action that is not finite, or a column holds something else than is expected of it.
    """
    optional = [c for c in (BAG_TIME, SUBTASK, *_UNKNOWN) if c in features]
    wanted = ["episode_index", "frame_index", "timestamp", "task_index", STATE, ACTION, *optional]
    try:
        files = sorted((root / "data").glob("*/*.parquet"))
        chosen = compute.field("episode_index").isin(list(episodes))
        table = arrow.dataset(files).to_table(columns=wanted, filter=chosen).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{root / 'data'} cannot be read: {shown(error)}") from error
    columns = Columns(root, table)
    episode, frame = (columns.integers(name) for name in ("episode_index", "frame_index"))
    starts = np.flatnonzero(np.diff(episode, prepend=-1))
    lengths = np.diff(starts, append=len(table))
    if episode[starts].tolist() != sorted(episodes) or not np.array_equal(
        frame, np.arange(len(table)) - np.repeat(starts, lengths)
    ):
        raise DataError(f"{root / 'data'} does not hold every episode, frame by frame")
    times = columns.integers(BAG_TIME) if BAG_TIME in optional else None
    return FrameTable(
        episode=episode,
        frame=frame,
        timestamp=columns.floats("timestamp"),
        end=_ends(starts, times, fps, len(table)),
        state=columns.vectors(STATE, features[STATE]["shape"][0]),
        action=columns.vectors(ACTION, features[ACTION]["shape"][0]),
        task=_tasks(root, columns.integers("task_index")),
        subtask=columns.words(SUBTASK) if SUBTASK in optional else Words(0 * episode, ("",)),
        labels={name: _label(columns, name, name in optional) for name in _UNKNOWN},
    )


def _ends(
    starts: npt.NDArray[np.int64], times: npt.NDArray[np.int64] | None, fps: int, count: int
) -> npt.NDArray[np.int64]:
    """For each row the next start of an episode, or the next row that is not on time."""
    if times is not None:
        period = 1e9 / fps
        late = np.flatnonzero(np.abs(np.diff(times) - period) > period / 2) + 1
        starts = np.union1d(starts, late)
    ends = np.append(starts[1:], count)
    return np.repeat(ends, ends - starts)


def _tasks(root: Path, codes: npt.NDArray[np.int64]) -> Words:
    """The task of each frame, of which the table holds the index alone."""
    path = root / "meta/tasks.parquet"
    try:
        tasks = pd.read_parquet(path).task_index.sort_values()
    except (pa.ArrowException, OSError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {shown(error)}") from error
    if list(tasks) != list(range(len(tasks))):
        raise DataError(f"{path} does not count its tasks from 0")
    if not all(isinstance(text, str) for text in tasks.index):
        raise DataError(f"{path} is indexed by {tasks.index.dtype}, expected the tasks' texts")
    strange = codes[(codes < 0) | (codes >= len(tasks))]
    if strange.size:
        raise DataError(f"{root}: task_index holds {strange[0]}, and {path} {len(tasks)} tasks")
    return Words(codes, tuple(tasks.index))


def _label(columns: Columns, name: str, known: bool) -> npt.NDArray[Any]:
    unknown = _UNKNOWN[name]
    if not known:
        return np.full(len(columns.table), unknown)
    if isinstance(unknown, np.integer):
        return columns.integers(name, int(unknown))
    return columns.floats(name)
