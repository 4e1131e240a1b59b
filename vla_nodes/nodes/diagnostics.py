# SPDX-License-Identifier: Apache-2.0
"""What a node says about its health on ``/diagnostics``."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Health:
    """A node's health at one moment.

    Attributes:
        level: OK, WARN or ERROR.
        message: One line, names the first thing that is wrong.
        values: Figures by name; units are part of the name.
    """

    level: bytes = OK
    message: str = "ok"
    values: Mapping[str, object] = field(default_factory=dict)

    def status(self, name: str) -> DiagnosticStatus:
        """The message for the component ``name``."""
        return DiagnosticStatus(
            level=self.level,
            name=name,
            hardware_id="vla_nodes",
            message=self.message[:512],
            values=[KeyValue(key=key, value=_text(value)) for key, value in self.values.items()],
        )


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:512]


class Percentiles:
    """Percentiles over the last samples of a duration.

    Args:
        capacity: Samples kept.
    """

    def __init__(self, capacity: int = 500) -> None:
        self._samples: deque[float] = deque(maxlen=capacity)

    def add(self, seconds: float) -> None:
        """Append a sample in seconds."""
        self._samples.append(seconds)

    def values(self, name: str) -> dict[str, float]:
        """``{name}_p50_ms``, ``_p95_ms``, ``_p99_ms`` and ``_max_ms``; empty without samples."""
        samples = np.asarray(tuple(self._samples))
        if not samples.size:
            return {}
        p50, p95, p99, greatest = np.percentile(samples, (50, 95, 99, 100)) * 1e3
        return {
            f"{name}_p50_ms": p50,
            f"{name}_p95_ms": p95,
            f"{name}_p99_ms": p99,
            f"{name}_max_ms": greatest,
        }


class RateMeter:
    """Events per second over a sliding window.

    Args:
        window: Seconds.
    """

    def __init__(self, window: float = 5.0) -> None:
        self._window_ns = int(window * 1e9)
        self._times: deque[int] = deque()

    def event(self, steady_ns: int) -> None:
        """Count an event at a monotonic time in nanoseconds."""
        self._times.append(steady_ns)
        while self._times[0] < steady_ns - self._window_ns:
            self._times.popleft()

    def hz(self, steady_ns: int) -> float:
        """Events per second up to now; 0.0 when there were fewer than two."""
        # A copy: another thread may be counting.
        times = [at for at in tuple(self._times) if at >= steady_ns - self._window_ns]
        if len(times) < 2:
            return 0.0
        return (len(times) - 1) / max((times[-1] - times[0]) * 1e-9, 1e-9)
