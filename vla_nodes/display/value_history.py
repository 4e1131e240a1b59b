# SPDX-License-Identifier: Apache-2.0
"""The value estimates of the last seconds, as every display of the value shows them."""

import math
from collections import deque

import numpy as np

SPAN = 20.0  # s that displays reach back


class ValueHistory:
    """Values and their quantile bands of the last ``SPAN`` seconds.

    A time before the newest one, as after a jump of the clock or in a replayed bag, begins anew.
    """

    def __init__(self) -> None:
        self._estimates: deque[tuple[float, float, float, float]] = deque()

    def add(self, time: float, value: float, low: float = math.nan, high: float = math.nan) -> None:
        """Append an estimate; a second one for the same time takes the first one's place.

        Args:
            time: Of the observation, s.
            value: In [-1, 0]; NaN leaves a gap.
            low: Lower edge of the band; NaN where there is none.
            high: Upper edge of the band, likewise.
        """
        estimates = self._estimates
        if estimates and time < estimates[-1][0]:
            estimates.clear()
        if estimates and time == estimates[-1][0]:
            estimates.pop()
        estimates.append((time, value, low, high))
        while time - estimates[0][0] > SPAN:
            estimates.popleft()

    def clear(self) -> None:
        """Forget all, as for a new task."""
        self._estimates.clear()

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Times, values, lower and upper edges, each (N,) and the newest last."""
        table = np.array(self._estimates, dtype=float).reshape(-1, 4)
        times, values, low, high = table.T
        return times, values, low, high
