# SPDX-License-Identifier: Apache-2.0
"""Figures about each stream, for diagnostics."""

import zlib
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_nodes.observation.codecs import Picture

RATE_SAMPLES = 50
FROZEN_FRAMES = 10


@dataclass(frozen=True)
class StreamHealth:
    """What is known about a stream.

    Attributes:
        received: Messages, the refused ones included.
        rate: Hz over the last ``RATE_SAMPLES`` messages; falls when they stop coming.
        last_receive: ns; None before the first message.
        faults: Refused samples by reason, clock jumps among them.
        last_fault: The latest of them in words; empty where there was none.
        frozen: The last ``FROZEN_FRAMES`` decoded frames were alike in every pixel looked at.
    """

    received: int
    rate: float
    last_receive: int | None
    faults: Mapping[str, int]
    last_fault: str
    frozen: bool


class StreamMonitor:
    """Keeps the figures of one stream."""

    def __init__(self) -> None:
        self._received = 0
        self._times: deque[int] = deque(maxlen=RATE_SAMPLES)
        self._faults: Counter[str] = Counter()
        self._last_fault = ""
        self._checksum: int | None = None
        self._alike = 0

    def receive(self, receive: int) -> None:
        """Counts a message received at that time, ns."""
        self._received += 1
        self._times.append(receive)

    def fault(self, reason: str, detail: str) -> None:
        """Counts a fault."""
        self._faults[reason] += 1
        self._last_fault = f"{reason}: {detail}"

    def decoded(self, picture: Picture) -> None:
        """Compares a frame with the one before, by every eighth row."""
        checksum = zlib.crc32(np.ascontiguousarray(picture[::8]))
        self._alike = self._alike + 1 if checksum == self._checksum else 1
        self._checksum = checksum

    def report(self, now: int) -> StreamHealth:
        """The figures at that time, ns."""
        span = max(now, self._times[-1]) - self._times[0] if self._times else 0
        return StreamHealth(
            received=self._received,
            rate=(len(self._times) - 1) / (span * 1e-9) if span > 0 else 0.0,
            last_receive=self._times[-1] if self._times else None,
            faults=dict(self._faults),
            last_fault=self._last_fault,
            frozen=self._alike >= FROZEN_FRAMES,
        )
