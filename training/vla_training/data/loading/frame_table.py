# SPDX-License-Identifier: Apache-2.0
"""Everything of a LeRobot dataset but the pictures, in memory: 170 MB for a million frames.

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
from vla_training.data.conversion.job import Outcome
from vla_training.data.conversion.schema import ACTION, BAG_TIME, OUTCOME, STATE, SUBTASK
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import ADVANTAGE, POSITIVE, RETURN, UNLABELLED

_UNKNOWN: dict[str, np.generic] = {
    OUTCOME: np.int64(Outcome.UNKNOWN),
    RETURN: np.float32(np.nan),
    ADVANTAGE: np.float32(np.nan),
    POSITIVE: np.int64(UNLABELLED),
}


@dataclass(frozen=True)
class Words:
    """A column of texts, of which few differ.

    Attributes:
        codes: (N,) which text.
        texts: By code.
    """

    codes: npt.NDArray[np.int64]
    texts: tuple[str, ...]

    def __getitem__(self, row: int) -> str:
        return self.texts[self.codes[row]]


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
        labels: (N,) arrays ``outcome``, ``return``, ``advantage`` and ``positive``; ``UNKNOWN``,
            NaN and ``UNLABELLED`` where the dataset has none.
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
    root: Path, features: Collection[str], fps: int, episodes: Collection[int]
) -> FrameTable:
    """Reads the frames of some episodes.

    Args:
        root: Of a LeRobot v3 dataset.
        features: Names of its columns, state and action among them.
        fps: Of the dataset.
        episodes: Indices, each once.

    Raises:
        DataError: The frames cannot be read, do not follow each other, or hold a state or an
            action that is not finite.
    """
    optional = [c for c in (BAG_TIME, SUBTASK, *_UNKNOWN) if c in features]
    wanted = ["episode_index", "frame_index", "timestamp", "task_index", STATE, ACTION, *optional]
    try:
        files = sorted((root / "data").glob("*/*.parquet"))
        chosen = compute.field("episode_index").isin(list(episodes))
        table = arrow.dataset(files).to_table(columns=wanted, filter=chosen).combine_chunks()
        tasks = pd.read_parquet(root / "meta/tasks.parquet").task_index
    except (pa.ArrowException, OSError, AttributeError) as error:
        raise DataError(f"{root} cannot be read: {shown(error)}") from error
    episode, frame = (table[name].to_numpy() for name in ("episode_index", "frame_index"))
    starts = np.flatnonzero(np.diff(episode, prepend=-1))
    lengths = np.diff(starts, append=len(table))
    if episode[starts].tolist() != sorted(episodes) or not np.array_equal(
        frame, np.arange(len(table)) - np.repeat(starts, lengths)
    ):
        raise DataError(f"{root / 'data'} does not hold every episode, frame by frame")
    times = table[BAG_TIME].to_numpy() if BAG_TIME in optional else None
    return FrameTable(
        episode=episode,
        frame=frame,
        timestamp=table["timestamp"].to_numpy(),
        end=_ends(starts, times, fps, len(table)),
        state=_vectors(root, table, STATE),
        action=_vectors(root, table, ACTION),
        task=Words(table["task_index"].to_numpy(), _task_texts(root, tasks)),
        subtask=_words(table, SUBTASK),
        labels={name: _label(table, name) for name in _UNKNOWN},
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


def _vectors(root: Path, table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    column = table[name]
    if pa.types.is_nested(column.type):  # LeRobot stores vectors of one element as numbers
        column = compute.list_flatten(column)
    values = column.to_numpy().astype(np.float32, copy=False).reshape(len(table), -1)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        episode, frame = (table[c][int(bad[0])] for c in ("episode_index", "frame_index"))
        raise DataError(f"{root}: {name} is not finite in frame {frame} of episode {episode}")
    return values


def _task_texts(root: Path, tasks: pd.Series) -> tuple[str, ...]:
    if sorted(tasks) != list(range(len(tasks))):
        raise DataError(f"{root / 'meta/tasks.parquet'} does not count its tasks from 0")
    return tuple(tasks.sort_values().index)


def _words(table: pa.Table, name: str) -> Words:
    if name not in table.column_names:
        return Words(np.zeros(len(table), np.int64), ("",))
    column = table[name].combine_chunks().fill_null("").dictionary_encode()
    return Words(column.indices.to_numpy().astype(np.int64), tuple(column.dictionary.to_pylist()))


def _label(table: pa.Table, name: str) -> npt.NDArray[Any]:
    unknown = _UNKNOWN[name]
    if name not in table.column_names:
        return np.full(len(table), unknown)
    return table[name].to_numpy().astype(unknown.dtype, copy=False)
