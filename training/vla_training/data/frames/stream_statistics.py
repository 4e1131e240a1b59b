# SPDX-License-Identifier: Apache-2.0
"""Figures about the streams of a recording and about the frames made of them."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Contract
from vla_nodes.observation.buffers import stamp_fault
from vla_training.data.bags.bag import Sample
from vla_training.data.frames.frames import Frame
from vla_training.data.stamps import SECOND, message_stamp

GAP = 2.5
"""Median periods between two messages from which on some are missing."""

_MS = 1e6  # ns


class StreamStatistics:
    """Measures messages as they pass, and frames; a few numbers are kept of each.

    Args:
        contract: Of the frames.
        fps: Frames per second of the dataset.
    """

    def __init__(self, contract: Contract, fps: int) -> None:
        self._fps = fps
        self._reference = contract.reference
        self._topics: dict[str, _Topic] = {}
        self._streams: dict[str, _Stream] = {}
        self._stamps = array("q")

    def watch(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Passes messages on, measuring each."""
        for sample in samples:
            topic = self._topics.get(sample.topic)
            if topic is None:
                topic = self._topics[sample.topic] = _Topic()
            topic.add(sample.receive, sample.message)
            yield sample

    def add(self, frame: Frame) -> None:
        """Measures a frame."""
        for name, age in frame.ages.items():
            if name not in self._streams:
                self._streams[name] = _Stream()
            self._streams[name].add(frame.stamp, age, frame.skews[name])
        self._stamps.append(frame.stamp)

    def report(self) -> dict[str, Any]:
        """All figures, ready for JSON.

        ``topics`` has for each: ``messages``; ``bytes`` of pictures and packets; ``rate_hz``,
        ``nominal`` by the median period and ``effective`` over the whole; ``jitter_ms``, the
        distance of periods from the median; ``gaps``, periods above ``GAP`` times the median;
        ``delay_ms`` from stamp to receipt, null where there are no stamps; and ``faults``, stamps
        refused by reason. Periods are between stamps, or receipts where there are none.

        ``frames`` has ``count``; ``fps`` as asked for; ``grid_fps``, that of neighbouring frames;
        ``effective_fps``, the samples of the reference that are really in them, per second; and
        for each of ``streams`` ``age_ms``, ``skew_ms`` (its magnitude), and ``repeats``, the
        frames that show the same sample as the frame before.
        """
        return {
            "topics": {name: topic.report() for name, topic in sorted(self._topics.items())},
            "frames": self._report_frames(),
        }

    def _report_frames(self) -> dict[str, Any]:
        count = len(self._stamps)
        streams = {name: stream.report() for name, stream in self._streams.items()}
        steps = np.diff(np.array(self._stamps, np.int64))
        neighbours = steps[steps * self._fps < 1.5 * SECOND]
        repeats = streams[self._reference]["repeats"] if count else 0
        return {
            "count": count,
            "fps": self._fps,
            "grid_fps": _hertz(neighbours.mean()) if len(neighbours) else None,
            "effective_fps": self._fps * (count - repeats) / count if count else None,
            "streams": streams,
        }


class _Topic:
    """What is kept of a topic: a stamp, a receipt and a delay of each message."""

    def __init__(self) -> None:
        self._receives = array("q")
        self._stamps = array("q")  # those that were not refused
        self._delays = array("q")
        self._faults: Counter[str] = Counter()
        self._bytes = 0

    def add(self, receive: int, message: Any) -> None:
        self._receives.append(receive)
        self._bytes += getattr(getattr(message, "data", None), "nbytes", 0)
        stamp = message_stamp(message)
        if stamp is None:
            return
        fault = stamp_fault(stamp, self._stamps[-1] if self._stamps else None, receive)
        if fault is not None:
            self._faults[fault] += 1
            if fault != "clock_jump":
                return
        self._stamps.append(stamp)
        self._delays.append(receive - stamp)

    def report(self) -> dict[str, Any]:
        times = np.array(self._stamps or self._receives, np.int64)
        steps = np.diff(times)
        periods = steps[steps > 0]  # the others are clock jumps
        median = float(np.median(periods)) if len(periods) else None
        gaps = periods[periods > GAP * median] if median else periods
        return {
            "messages": len(self._receives),
            "bytes": self._bytes,
            "rate_hz": {
                "nominal": _hertz(median) if median else None,
                "effective": _hertz(periods.mean()) if median else None,
            },
            "jitter_ms": _spread(np.abs(periods - median) / _MS) if median else None,
            "gaps": {
                "count": len(gaps),
                "longest_ms": float(gaps.max() / _MS) if len(gaps) else None,
            },
            "delay_ms": _spread(np.array(self._delays, np.int64) / _MS),
            "faults": dict(self._faults),
        }


class _Stream:
    """What is kept of a stream in the frames."""

    def __init__(self) -> None:
        self._ages = array("d")
        self._skews = array("d")
        self._sample = 0
        self._repeats = 0

    def add(self, stamp: int, age: float, skew: float) -> None:
        self._ages.append(age)
        self._skews.append(abs(skew))
        sample = stamp - round(age * 1e9)
        # The age of an action may be from the next frame's time, which is rounded on its own.
        self._repeats += abs(sample - self._sample) <= 1
        self._sample = sample

    def report(self) -> dict[str, Any]:
        return {
            "age_ms": _spread(np.array(self._ages) * 1e3),
            "skew_ms": _spread(np.array(self._skews) * 1e3),
            "repeats": self._repeats,
        }


def _hertz(period: float) -> float:
    return float(SECOND / period)


def _spread(values: npt.NDArray[np.float64]) -> dict[str, float] | None:
    """Percentiles; None of nothing."""
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(values.max())}
