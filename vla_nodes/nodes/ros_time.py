# SPDX-License-Identifier: Apache-2.0
"""Simulated time that flows smoothly between the steps of /clock.

A control loop that samples a trajectory at the last /clock message jerks. ``SmoothClock`` advances
with the steady clock and is drawn gently towards the messages.
"""

JUMP = 250_000_000  # ns; a larger distance is a jump of the clock, and is followed at once
AHEAD = 50_000_000  # ns that time may run ahead of a clock that pauses
BEHIND = 25_000_000  # ns that it may lag a clock that runs fast
GAIN = 0.05  # share of the distance that one reading takes away


class SmoothClock:
    """Follows a clock; nanoseconds throughout."""

    def __init__(self) -> None:
        self._ros: int | None = None
        self._steady = 0

    def update(self, ros: int, steady: int) -> int:
        """ROS time at the monotonic time ``steady``, given the reading ``ros`` of its clock."""
        previous = ros if self._ros is None else self._ros
        elapsed = 0 if self._ros is None else steady - self._steady
        error = ros - (previous + elapsed)
        now = ros
        # A reading behind the time that has passed is a late one: only one behind the time that
        # was given shows that the clock went back.
        if error <= JUMP and previous - ros <= JUMP:
            # But for jumps, time never runs backwards, however late the readings are.
            gentle = previous + elapsed + round(GAIN * error)
            now = max(previous, ros - BEHIND, min(gentle, ros + AHEAD))
        self._ros, self._steady = now, steady
        return now
