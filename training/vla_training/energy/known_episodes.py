# SPDX-License-Identifier: Apache-2.0
"""Which recordings an energy model was trained on, so that none of them judges it.

Recordings are known by their content: a dataset that has grown since, was put together anew or
was copied counts its episodes otherwise, and splits them otherwise.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from vla_training.data.loading.frame_table import FrameTable


def known_episodes(datasets: Iterable[tuple[FrameTable, Iterable[int]]]) -> tuple[str, ...]:
    """Digests of recordings, by their states and actions; those of copies are the same.

    Args:
        datasets: Their frames, and which of their episodes are meant.

    Returns:
        Each once, in an order that says nothing.
    """
    return tuple(sorted({_digest(table, one) for table, ours in datasets for one in ours}))


def _digest(table: FrameTable, episode: int) -> str:
    rows = slice(*np.searchsorted(table.episode, (episode, episode + 1)))
    content = hashlib.sha256()
    for column in (table.state, table.action):
        content.update(np.ascontiguousarray(column[rows]))
    return content.hexdigest()[:16]
