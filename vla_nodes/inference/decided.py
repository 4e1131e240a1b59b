# SPDX-License-Identifier: Apache-2.0
"""Which actions are decided already while a new chunk is being computed.

The robot goes on with its old chunk meanwhile, so the new one has to begin as the old one ends:
real-time chunking, https://arxiv.org/abs/2506.07339.
"""

import math

import numpy as np
from numpy.typing import NDArray


def unexecuted(chunk: NDArray[np.float32], periods: float) -> NDArray[np.float32]:
    """The end of an old chunk, at the due times of a new one's first actions.

    Row i of a chunk is due i + 1 periods after its observation. The two observations need not
    lie whole periods apart: between rows the old chunk is linear.

    Args:
        chunk: (T, A), the old one.
        periods: From its observation to the new one's, in periods of the actions; negative
            where the clock was set back.

    Returns:
        (m, A), row by row what the robot does at the due times of the new chunk's rows; none
        where the old chunk has run out.
    """
    rows = np.arange(len(chunk))
    places = rows + periods
    places = places[places <= rows[-1]]
    if periods < 0 or not len(places):
        return chunk[:0]
    columns = [np.interp(places, rows, column) for column in chunk.T]
    return np.stack(columns, axis=1).astype(np.float32)


def delay(latency: float, dt: float) -> int:
    """Actions of a new chunk that are past when it comes.

    Args:
        latency: From the observation until its chunk comes, s.
        dt: Period of the actions, s.
    """
    return math.ceil(latency / dt)
