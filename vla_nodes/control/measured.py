# SPDX-License-Identifier: Apache-2.0
"""Measured positions of the last seconds: how fresh they are, and what they were when."""

from bisect import bisect_left
from collections import deque

import numpy as np
from numpy.typing import ArrayLike

from vla_nodes.control.parameters import Floats

_CAPACITY = 1024


class Measured:
    """Measured positions (A,), oldest first.

    Args:
        count: A.
        timeout: Seconds, by receipt and by stamp, after which the newest is no longer
            fresh; also the widest gap that is interpolated.
    """

    def __init__(self, count: int, timeout: float) -> None:
        self._count = count
        self._timeout_ns = int(timeout * 1e9)
        self._received_ns = 0
        self._stamps: deque[int] = deque(maxlen=_CAPACITY)
        self._positions: deque[Floats] = deque(maxlen=_CAPACITY)

    @property
    def newest(self) -> Floats:
        """The newest positions (A,)."""
        return self._positions[-1]

    def add(self, positions: ArrayLike, stamp_ns: int, latest_ns: int, steady_ns: int) -> str:
        """Keep a sample, or say why not.

        Args:
            positions: (A,).
            stamp_ns: ROS time of measuring.
            latest_ns: ROS time after which no stamp is believed.
            steady_ns: Of receipt.
        """
        values = np.array(positions, dtype=np.float64)
        if values.shape != (self._count,) or not np.isfinite(values).all():
            return "measured positions malformed"
        if stamp_ns > latest_ns:
            return "measured positions from the future"
        if self._stamps and stamp_ns <= self._stamps[-1]:
            return "measured positions not newer"
        self._stamps.append(stamp_ns)
        self._positions.append(values)
        self._received_ns = steady_ns
        return ""

    def is_fresh(self, ros_ns: int, steady_ns: int) -> bool:
        """Whether the newest sample is young by receipt and by stamp."""
        if not self._stamps:
            return False
        age_ns = max(steady_ns - self._received_ns, ros_ns - self._stamps[-1])
        return age_ns <= self._timeout_ns

    def at(self, stamp_ns: int) -> Floats | None:
        """Positions (A,) at a stamp, or None where no two near samples enclose it."""
        k = bisect_left(self._stamps, stamp_ns)
        if k == len(self._stamps):
            return None
        after_ns = self._stamps[k]
        if after_ns == stamp_ns:
            return self._positions[k]
        if k == 0 or after_ns - self._stamps[k - 1] > self._timeout_ns:
            return None
        share = (stamp_ns - self._stamps[k - 1]) / (after_ns - self._stamps[k - 1])
        return (1 - share) * self._positions[k - 1] + share * self._positions[k]

    def shift(self, ns: int) -> None:
        """Follow a step of the clock."""
        self._stamps = deque((stamp + ns for stamp in self._stamps), _CAPACITY)

    def clear(self) -> None:
        """Forget all."""
        self._stamps.clear()
        self._positions.clear()
