# SPDX-License-Identifier: Apache-2.0
"""Chunks that the expert did not give in a frame, for energies to be high.

The other chunks of a batch are good ones of other frames. These are closer to the expert's own, or
good in no frame at all. What is random comes from a generator of each frame's own.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_training.data.errors import DataError
from vla_training.energy.chunk_table import ChunkTable
from vla_training.energy.energy_set import EnergyBatch
from vla_training.energy.negative_settings import Kind, NegativeSettings

Made = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""(B, M, T, A) chunks and (B, M) which of them are there."""


def negatives(
    kind: Kind,
    batch: EnergyBatch,
    table: ChunkTable,
    rows: NDArray[np.int64],
    rngs: Sequence[np.random.Generator],
    settings: NegativeSettings,
) -> Made:
    """Makes negatives of one kind.

    Args:
        kind: Of them.
        batch: B frames.
        table: What was recorded.
        rows: (B,) of the frames in the table.
        rngs: One for each frame.
        settings: How.

    Returns:
        (B, M, T, A) normalised, and (B, M) bool, False for those that are not there: nothing is
        recorded so much later or earlier, there is no other text, what was made is the expert's
        own chunk, or too near to it. M is 1, or how many layers or samples the batch has.

    Raises:
        DataError: The batch comes without what the kind needs.
    """
    actions = batch.actions.numpy()
    match kind:
        case "noise":
            scale = np.float32(settings.noise) * table.std
            noise = [rng.standard_normal(actions.shape[1:], np.float32) for rng in rngs]
            return _unlike(actions, actions + scale * np.stack(noise))
        case "shift":
            return _unlike(
                actions, _recorded(actions, table, _shifted(table, rows, rngs, settings))
            )
        case "reversed":
            return _unlike(actions, actions[:, ::-1])
        case "joints":
            return _unlike(actions, np.stack(list(map(_exchanged, actions, rngs))))
        case "other-task":
            return _unlike(actions, _recorded(actions, table, _other_texts(table, rows, rngs)))
        case "layers" | "samples":
            chunks = _given(getattr(batch, kind), kind)
            distance = np.sqrt(np.square(chunks - actions[:, None]).mean(axis=(2, 3)))
            return chunks, distance >= settings.far


def _unlike(actions: NDArray[np.float32], chunks: NDArray[np.float32]) -> Made:
    """One for each frame; one that is the expert's own is not there."""
    return np.ascontiguousarray(chunks)[:, None], (chunks != actions).any(axis=(1, 2))[:, None]


def _recorded(
    actions: NDArray[np.float32], table: ChunkTable, chosen: Sequence[int | None]
) -> NDArray[np.float32]:
    """Chunks of rows of the table; the expert's own where there is no row."""
    chunks = actions.copy()
    there = [place for place, row in enumerate(chosen) if row is not None]
    if there:
        chunks[there] = table.at(np.array([chosen[place] for place in there]))
    return chunks


def _shifted(
    table: ChunkTable,
    rows: NDArray[np.int64],
    rngs: Sequence[np.random.Generator],
    settings: NegativeSettings,
) -> list[int | None]:
    """Rows later or earlier in the same episodes, where there are such."""
    shift = settings.shift or table.chunk
    chosen: list[int | None] = []
    for row, rng in zip(rows, rngs, strict=True):
        both = [other for other in (row - shift, row + shift) if 0 <= other < len(table.whole)]
        both = [
            other
            for other in both
            if table.whole[other] and table.episode[other] == table.episode[row]
        ]
        chosen.append(int(rng.choice(both)) if both else None)
    return chosen


def _other_texts(
    table: ChunkTable, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator]
) -> list[int | None]:
    """Rows with another text, where there are such."""
    texts = table.text[rows]
    return [table.of_another_text(text, rng) for text, rng in zip(texts, rngs, strict=True)]


def _exchanged(chunk: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(T, A) with the joints' trajectories in another order, where that makes a difference."""
    if (chunk == chunk[:, :1]).all():
        return chunk
    made = chunk
    # Where any two joints differ, at least half of all orders change the chunk.
    while np.array_equal(made, chunk):
        made = chunk[:, rng.permutation(chunk.shape[1])]
    return made


def _given(chunks: Tensor | None, kind: str) -> NDArray[np.float32]:
    if chunks is None:
        raise DataError(f"the contexts come without {kind}, expected such that were made with them")
    return chunks.float().numpy()
