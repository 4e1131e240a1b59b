# SPDX-License-Identifier: Apache-2.0
"""Simulated time for a control loop: smooth, never backwards, and true to its clock."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_nodes.nodes.ros_time import AHEAD, JUMP, SmoothClock

MS = 1_000_000


def test_time_advances_smoothly_between_the_steps_of_a_slower_clock() -> None:
    clock, readings = SmoothClock(), []
    for steady in range(0, 3_000, 10):
        reading = steady - steady % 25  # /clock arrives every 25 ms
        readings.append(clock.update(reading * MS, steady * MS))
    steps = np.diff(readings)[100:] / MS
    assert np.abs(steps - 10.0).max() < 1.5
    # On average it lags as the readings do, half a step of theirs.
    lag = np.arange(0, 3_000, 10)[100:] - np.array(readings[100:]) / MS
    assert abs(lag.mean() - 10.0) < 3.0


def test_a_paused_clock_is_left_behind_by_no_more_than_the_bound() -> None:
    clock = SmoothClock()
    for steady in range(0, 1_000, 10):
        clock.update(steady * MS, steady * MS)
    times = [clock.update(990 * MS, steady * MS) for steady in range(1_000, 3_000, 10)]
    assert max(times) <= 990 * MS + AHEAD
    assert len(set(times[50:])) == 1


def test_a_jump_is_followed_at_once_in_both_directions() -> None:
    clock = SmoothClock()
    clock.update(10_000 * MS, 0)
    assert clock.update(2_000 * MS, 10 * MS) == 2_000 * MS
    assert clock.update(60_000 * MS, 20 * MS) == 60_000 * MS


def test_a_loop_that_was_held_up_does_not_take_a_late_reading_for_a_step_back() -> None:
    clock = SmoothClock()
    for steady in range(0, 1_040, 10):
        before = clock.update(min(steady, 1_000) * MS, steady * MS)
    assert before > 1_000 * MS
    assert clock.update(1_000 * MS, 1_400 * MS) >= before


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(-40, 40)), min_size=1, max_size=60))
def test_time_never_runs_backwards_without_a_jump(steps: list[tuple[int, int]]) -> None:
    clock, steady, newest = SmoothClock(), 0, None
    for elapsed, noise in steps:
        steady += elapsed
        now = clock.update((steady + 1_000 + noise) * MS, steady * MS)
        assert newest is None or newest <= now
        assert abs(now - (steady + 1_000) * MS) < JUMP
        newest = now
