# SPDX-License-Identifier: Apache-2.0
"""All actions of a split, from which chunks are taken that were recorded somewhere else."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vla_nodes.models.scaling import Scaling
from vla_training.data.errors import DataError
from vla_training.data.loading.frame_table import FrameTable

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """N frames, episode after episode.

    Attributes:
        actions: (N, A) float32, normalised.
        end: (N,) row behind the last one that follows a frame without a break.
        episode: (N,) counts the episodes of the table from 0.
        text: (N,) which text the actor is told: the subtask, or the task where there is none.
        texts: By that number.
        chunk: Actions in a chunk, T.
    """

    actions: npt.NDArray[np.float32]
    end: Rows
    episode: Rows
    text: Rows
    texts: tuple[str, ...]
    chunk: int

    @cached_property
    def whole(self) -> npt.NDArray[np.bool_]:
        """(N,) where all T actions from a frame on were recorded."""
        return self.end - np.arange(len(self.end)) >= self.chunk

    @cached_property
    def std(self) -> npt.NDArray[np.float32]:
        """(A,) standard deviation of each joint."""
        return self.actions.std(axis=0, dtype=np.float64).astype(np.float32)

    def of_another_text(self, text: int, rng: np.random.Generator) -> int | None:
        """Draws a row with a whole chunk and another text; None where there is none."""
        rows, starts = self._by_text
        first, end = starts[text], starts[text + 1]
        count = len(rows) - (end - first)
        if not count:
            return None
        place = int(rng.integers(count))
        return int(rows[place if place < first else place + end - first])

    @cached_property
    def _by_text(self) -> tuple[Rows, Rows]:
        """Rows that have a whole chunk, text after text, and where each text begins."""
        whole = np.flatnonzero(self.whole)
        rows = whole[np.argsort(self.text[whole], kind="stable")]
        return rows, np.searchsorted(self.text[rows], np.arange(len(self.texts) + 1))

    def at(self, rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The chunks that begin in some rows.

        Args:
            rows: (M,).

        Returns:
            (M, T, A).

        Raises:
            DataError: One has no whole chunk.
        """
        rows = np.asarray(rows, np.int64)
        broken = rows[~self.whole[rows]]
        if broken.size:
            raise DataError(
                f"row {broken[0]} of the table has {self.end[broken[0]] - broken[0]} actions "
                f"before a break, expected {self.chunk}"
            )
        return self.actions[rows[:, None] + np.arange(self.chunk)]

    @classmethod
    def of(
        cls,
        tables: Sequence[FrameTable],
        episodes: Sequence[Sequence[int]],
        scaling: Scaling,
        chunk: int,
    ) -> "ChunkTable":
        """Puts the frames of some episodes of datasets behind each other.

        Args:
            tables: Of datasets of one robot.
            episodes: Of each of them, those that are wanted.
            scaling: Of its actions.
            chunk: Actions in a chunk.
        """
        numbers: dict[str, int] = {}
        actions, ends, counted, texts, count, known = [], [], [], [], 0, 0
        for table, wanted in zip(tables, episodes, strict=True):
            rows = np.flatnonzero(np.isin(table.episode, wanted))
            actions.append(scaling.normalise(table.action[rows]).astype(np.float32))
            # The last frame before a break is of the same episode, and so among the rows, too.
            ends.append(count + np.searchsorted(rows, table.end[rows] - 1) + 1)
            counted.append(known + np.unique(table.episode[rows], return_inverse=True)[1])
            told = (table.subtask[row] or table.task[row] for row in rows)
            texts.append([numbers.setdefault(text, len(numbers)) for text in told])
            count, known = count + len(rows), known + len(wanted)
        return cls(
            actions=np.concatenate(actions),
            end=np.concatenate(ends).astype(np.int64),
            episode=np.concatenate(counted).astype(np.int64),
            text=np.concatenate(texts).astype(np.int64),
            texts=tuple(numbers),
            chunk=chunk,
        )
