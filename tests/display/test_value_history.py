# SPDX-License-Identifier: Apache-2.0
"""The history holds the last seconds, in order, and nothing of an earlier run."""

import math

import numpy as np

from vla_nodes.display.value_history import SPAN, ValueHistory


def filled(times: np.ndarray) -> ValueHistory:
    history = ValueHistory()
    for time in times:
        history.add(time, -time / 1000, low=-1.0, high=0.0)
    return history


def test_what_is_older_than_the_span_is_forgotten() -> None:
    every = np.arange(0.0, 100.0, 0.25)
    times, values, low, high = filled(every).columns()
    assert times.tolist() == every[every >= 99.75 - SPAN].tolist()
    assert values.tolist() == (-times / 1000).tolist()
    assert set(low) == {-1.0}
    assert set(high) == {0.0}


def test_a_clock_that_goes_back_begins_anew() -> None:
    history = filled(np.arange(50.0, 60.0))
    history.add(3.0, -0.5)
    times, values, low, high = history.columns()
    assert (times.tolist(), values.tolist()) == ([3.0], [-0.5])
    assert math.isnan(low[0] + high[0])


def test_a_second_estimate_for_a_time_replaces_the_first() -> None:
    history = filled(np.array([1.0, 2.0]))
    for _ in range(1000):
        history.add(2.0, -0.9)
    times, values, _, _ = history.columns()
    assert (times.tolist(), values.tolist()) == ([1.0, 2.0], [-0.001, -0.9])


def test_a_cleared_history_is_empty() -> None:
    history = filled(np.arange(5.0))
    history.clear()
    assert [column.shape for column in history.columns()] == [(0,)] * 4
