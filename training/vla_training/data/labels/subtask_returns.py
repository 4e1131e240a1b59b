# SPDX-License-Identifier: Apache-2.0
"""Returns within subtasks: each stretch of a subtask is an episode of its own."""

from typing import Any

import numpy as np
import numpy.typing as npt

from vla_training.data.labels.labels import Floats, Mode, returns

NO_SUBTASK = -1


def subtask_returns(
    lengths: npt.NDArray[np.int64],
    subtasks: npt.NDArray[np.int64],
    failed: npt.NDArray[np.bool_],
    *,
    mode: Mode = "per_task",
    coefficient: float = 1.0,
    max_steps: int = 500,
) -> Floats:
    """How far every frame is from the end of its subtask.

    A run is as many frames of an episode in a row as have the same subtask. It gets the returns
    of an episode whose task is the subtask's text. The last run of an episode that failed is
    what failed; the runs before it have led to the next.

    Args:
        lengths: (E,) frames of each episode, at least 1.
        subtasks: (N,) integers that tell texts apart; ``NO_SUBTASK`` where there is none.
        failed: (E,) bool.
        mode: Of ``returns``; so are the next two.
        coefficient: For ``per_task``.
        max_steps: For ``global``.

    Returns:
        (N,), in [-1, 0]; NaN where there is no subtask.

    Raises:
        DataError: As of ``returns``.
    """
    ends = np.cumsum(lengths)
    begins = np.zeros(len(subtasks), bool)
    begins[ends - lengths] = True
    begins[1:] |= subtasks[1:] != subtasks[:-1]
    starts = np.flatnonzero(begins)
    counts = np.diff(starts, append=len(subtasks))
    episodes = np.searchsorted(ends, starts, side="right")
    named = subtasks[starts] != NO_SUBTASK
    last = np.zeros(len(named), bool)
    # Of several writes to one place the last counts: the last run of each episode.
    place = np.full(len(lengths), -1)
    place[episodes[named]] = np.flatnonzero(named)
    last[place[place >= 0]] = True
    result: npt.NDArray[Any] = np.full(len(subtasks), np.nan)
    result[np.repeat(named, counts)] = returns(
        counts[named],
        subtasks[starts[named]],
        (failed[episodes] & last)[named],
        mode=mode,
        coefficient=coefficient,
        max_steps=max_steps,
    )
    return result
