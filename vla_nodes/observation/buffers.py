# SPDX-License-Identifier: Apache-2.0
"""Bounded buffers of stamped samples, and the rules for the order of stamps.

Stamps are integer nanoseconds throughout: a float64 of seconds since 1970 resolves no
better than 240 ns, and differences of such floats are what makes frames drift.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from vla_nodes.observation.codecs import Picture
from vla_nodes.observation.joints import Vector

FUTURE_NS = 50_000_000
"""A stamp further ahead of its receipt than this comes from a clock that is not ours."""

REORDER_NS = 500_000_000
"""A step back below this is a late message; from here on it is a bag or simulator restarting."""

StampFault = Literal["unstamped", "future", "duplicate", "out_of_order", "clock_jump"]


def stamp_fault(stamp: int, newest: int | None, receive: int) -> StampFault | None:
    """Judges a sample by its stamp.

    Args:
        stamp: Of the sample, ns.
        newest: Stamp of the newest sample accepted before it, ns; None for the first.
        receive: When the sample was received, ns.

    Returns:
        None for a sample that continues its stream; ``clock_jump`` for one that begins it anew;
        anything else is to be dropped.
    """
    if stamp <= 0:
        return "unstamped"
    if stamp > receive + FUTURE_NS:
        return "future"
    if newest is None or stamp > newest:
        return None
    if stamp == newest:
        return "duplicate"
    return "out_of_order" if newest - stamp < REORDER_NS else "clock_jump"


class Bracket(NamedTuple):
    """Stamps of the samples around a stamp, ns; equal at a sample, None where there is none."""

    before: int | None
    after: int | None


class StateBuffer:
    """The newest samples of a vector, interpolated between.

    Samples lie in order in an array of twice the capacity. When its end is reached the newer
    half moves to the front, so that appending costs a copy of one row on average and the
    stamps always are one sorted slice.

    Args:
        size: Length S of the vector.
        capacity: Samples that are kept at least.
    """

    def __init__(self, size: int, capacity: int) -> None:
        self._capacity = capacity
        self._stamps = np.empty(2 * capacity, np.int64)
        self._values = np.empty((2 * capacity, size))
        self._start = self._end = 0

    @property
    def newest(self) -> int | None:
        """Stamp of the newest sample, ns."""
        return int(self._stamps[self._end - 1]) if self._end else None

    def clear(self) -> None:
        """Forgets every sample."""
        self._start = self._end = 0

    def append(self, stamp: int, values: Vector) -> None:
        """Adds a sample newer than all before; the oldest makes room."""
        if self._end == 2 * self._capacity:
            self._stamps[: self._capacity] = self._stamps[self._capacity :]
            self._values[: self._capacity] = self._values[self._capacity :]
            self._end = self._capacity
        self._stamps[self._end] = stamp
        self._values[self._end] = values
        self._end += 1
        self._start = max(0, self._end - self._capacity)

    def bracket(self, stamp: int) -> Bracket:
        """Finds the samples around a stamp."""
        before, after = self._neighbours(stamp)
        return Bracket(
            int(self._stamps[before]) if before >= self._start else None,
            int(self._stamps[after]) if after < self._end else None,
        )

    def interpolate(self, stamp: int) -> Vector:
        """Interpolates linearly between the samples around a stamp; at a sample, that sample.

        Returns:
            (S,) float64.

        Raises:
            LookupError: The stamp is not within the samples; nothing is extrapolated.
        """
        before, after = self._neighbours(stamp)
        if before < self._start or after >= self._end:
            raise LookupError(f"stamp {stamp} ns is outside the buffered samples")
        low, high = self._values[before], self._values[after]
        if before == after:
            return low.copy()
        # Python's integers are exact; their quotient is the only rounding of time.
        first, last = int(self._stamps[before]), int(self._stamps[after])
        return low + (high - low) * ((stamp - first) / (last - first))

    def _neighbours(self, stamp: int) -> tuple[int, int]:
        stamps = self._stamps[self._start : self._end]
        before = self._start + int(stamps.searchsorted(stamp, side="right")) - 1
        exact = before >= self._start and self._stamps[before] == stamp
        return before, before if exact else before + 1


@dataclass(slots=True)
class Frame:
    """A camera message, and what became of it.

    Attributes:
        stamp: ns.
        message: Until it is decoded; None afterwards, and for one that was refused.
        picture: Once it is decoded.
        error: Why there will never be a picture.
    """

    stamp: int
    message: Any
    picture: Picture | None = None
    error: str = ""


class ImageBuffer:
    """The newest frames of a camera, undecoded, so that a frame nobody asks for costs nothing.

    Args:
        capacity: Frames that are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._frames: deque[Frame] = deque(maxlen=capacity)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest frame, ns."""
        return self._frames[-1].stamp if self._frames else None

    def clear(self) -> None:
        """Forgets every frame."""
        self._frames.clear()

    def append(self, frame: Frame) -> None:
        """Adds a frame newer than all before; the oldest makes room."""
        self._frames.append(frame)

    def forget(self, stamp: int) -> None:
        """Drops the frames before the newest one that is not after a stamp."""
        while len(self._frames) > 1 and self._frames[1].stamp <= stamp:
            self._frames.popleft()

    def not_after(self, stamp: int) -> Frame:
        """The newest frame whose stamp is not after the given one.

        Raises:
            LookupError: There is none.
        """
        for frame in reversed(self._frames):
            if frame.stamp <= stamp:
                return frame
        raise LookupError(f"no buffered frame is as old as stamp {stamp} ns")

    def bracket(self, stamp: int) -> Bracket:
        """The frame that stands for a stamp, as both neighbours: pictures do not interpolate."""
        before = max((f.stamp for f in self._frames if f.stamp <= stamp), default=None)
        return Bracket(before, before)
