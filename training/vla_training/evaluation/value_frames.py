# SPDX-License-Identifier: Apache-2.0
"""Which frames a value function is asked about, and in what order it gets their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.value_checkpoint import ValueCheckpoint
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.frame_columns import Words
from vla_training.data.loading.frame_table import FrameTable, read_frame_table
from vla_training.data.loading.value_set import history_rows, history_steps
from vla_training.data.schema import SUBTASK
from vla_training.evaluation.value_pictures import (
    PictureSource,
    Rows,
    Stretch,
    open_pictures,
    stretches_of,
)

Text = Literal["task", "subtask"]


@dataclass(frozen=True, eq=False)
class ValueFrames:
    """The frames whose values are asked for.

    Attributes:
        source: Videos of the checkpoint's cameras, in its order.
        table: Of the episodes.
        rows: (F,) in the table.
        views: (F, H) rows of the frames that the model looks at, the oldest first.
        task: (F,) what it is told.
    """

    source: PictureSource
    table: FrameTable
    rows: Rows
    views: Rows
    task: Words


def open_frames(
    checkpoint: ValueCheckpoint, root: Path, episodes: Sequence[int], stride: int, text: Text
) -> ValueFrames:
    """Finds the frames of some episodes, and their pictures.

    Args:
        checkpoint: Of a trained value function.
        root: Of a LeRobot v3 dataset.
        episodes: Indices.
        stride: Take every such frame of an episode only, from its first on.
        text: What the model is told; with "subtask", frames without one are left out.

    Raises:
        CheckpointError: The checkpoint was never trained on values.
        DataError: A camera, an episode or a column is missing.
    """
    if checkpoint.interface is None:
        raise CheckpointError(
            f"{checkpoint.folder} was aligned only, and knows no values; train it with "
            "vla-train value"
        )
    source = open_pictures(root, checkpoint.interface.cameras)
    info = read_info(source.root)
    count = info["total_episodes"]
    chosen = sorted(set(episodes))
    if not chosen:
        raise DataError(f"no episode of {root} is asked for, expected one at least")
    if chosen[0] < 0 or chosen[-1] >= count:
        outside = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise DataError(f"episode {outside} is not in {root}, which has {count}")
    if text == "subtask" and SUBTASK not in info["features"]:
        raise DataError(f"{source.root} has no column {SUBTASK}; vla-convert makes it")
    table = read_frame_table(source.root, info["features"], source.fps, chosen)
    wanted = table.frame % stride == 0
    if text == "subtask":
        wanted &= table.has(SUBTASK)
    rows = np.flatnonzero(wanted)
    if not rows.size:
        raise DataError(f"{source.root} has no frame with a {text} in these episodes")
    config = checkpoint.config
    steps = history_steps(config.history, config.history_step, source.fps)
    words = table.subtask if text == "subtask" else table.task
    task = Words(words.codes[rows], words.texts)
    return ValueFrames(source, table, rows, history_rows(table, rows, steps), task)


@dataclass(frozen=True, eq=False)
class Block:
    """Frames of one episode that are estimated together.

    Attributes:
        chosen: Their places among the frames that are asked for.
        new: Pictures that no block before has needed.
        later: Rows of the pictures there are by then that blocks behind it need, too.
        ends: Whether it is the last of its episode.
    """

    chosen: slice
    new: list[Stretch]
    later: frozenset[int]
    ends: bool


def cut_blocks(frames: ValueFrames, size: int) -> list[Block]:
    """The frames in order, cut so that a picture is encoded once and none is held for long."""
    episode = frames.table.episode[frames.rows]
    ends = [*(np.flatnonzero(np.diff(episode)) + 1).tolist(), len(episode)]
    blocks, start = [], 0
    for end in ends:
        seen = np.array([], np.int64)
        for first in range(start, end, size):
            stop = min(first + size, end)
            new = np.setdiff1d(frames.views[first:stop], seen)
            seen = np.union1d(seen, new)
            stretches = [
                stretch
                for camera in frames.source.clips
                for stretch in stretches_of(frames.table, camera, new, size)
            ]
            later = frozenset(np.intersect1d(frames.views[stop:end], seen).tolist())
            blocks.append(Block(slice(first, stop), stretches, later, stop == end))
        start = end
    return blocks
