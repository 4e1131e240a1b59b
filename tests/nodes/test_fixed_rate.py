# SPDX-License-Identifier: Apache-2.0
"""The control loop's deadlines, on a clock of the test's own."""

import pytest

from vla_nodes.nodes import realtime

MS = 1_000_000


class FakeTime:
    """A monotonic clock that moves only by sleeping and by the work in a tick."""

    def __init__(self) -> None:
        self.now = 5_000 * MS

    def monotonic_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += round(seconds * 1e9)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(realtime, "time", fake)
    return fake


def ticks(fake: FakeTime, work: dict[int, int], count: int) -> list[int]:
    """Times of ``count`` ticks in ms since the first; ``work`` is ms spent in a tick, by number."""
    times: list[int] = []

    def tick(now: int, late: int) -> None:
        assert late == max(0, late)
        times.append(now)
        fake.now += work.get(len(times) - 1, 1) * MS

    realtime.fixed_rate(100.0, tick, lambda: len(times) < count)
    return [(now - times[0]) // MS for now in times]


def test_work_within_the_period_does_not_shift_the_deadlines(fake: FakeTime) -> None:
    assert ticks(fake, dict.fromkeys(range(10), 7), 10) == list(range(0, 100, 10))


def test_a_tick_that_takes_too_long_skips_deadlines_without_a_burst(fake: FakeTime) -> None:
    assert ticks(fake, {2: 34}, 6) == [0, 10, 20, 60, 70, 80]


def test_a_tick_that_is_just_late_keeps_the_rhythm(fake: FakeTime) -> None:
    assert ticks(fake, {1: 9}, 4) == [0, 10, 20, 30]
