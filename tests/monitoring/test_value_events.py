# SPDX-License-Identifier: Apache-2.0
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vla_nodes.monitoring.value_events import Events, EventSettings, ValueEvents

DEFAULTS = EventSettings()
RATE = 5.0  # Hz
NOISE = 0.03  # standard deviation of the estimates
RISE = 0.05  # per second, of a task that gets on


def follow(
    times: Iterable[float], values: Iterable[float], options: EventSettings = DEFAULTS
) -> list[Events]:
    events = ValueEvents(options)
    pairs = zip(times, values, strict=True)
    return [events.update(1, "", time, value, math.nan) for time, value in pairs]


def grid(seconds: float, rate: float = RATE) -> np.ndarray:
    return 1.7e9 + np.arange(round(seconds * rate)) / rate


def noisy(values: np.ndarray, seed: int) -> np.ndarray:
    return values + np.random.default_rng(seed).normal(0.0, NOISE, values.shape)


def derived(times: np.ndarray, values: np.ndarray, index: int) -> tuple[float, float]:
    """Trend and level at a sample, from everything before it, by the words of the settings."""
    seen = np.arange(index + 1)
    recent = seen[
        (times[index] - times[: index + 1] <= DEFAULTS.window + 1e-6) | (seen > index - 12)
    ]
    trend = math.nan
    if len(recent) >= 5:
        trend = np.polyfit(times[recent] - times[index], values[recent], 1)[0]
    last = seen[(times[index] - times[: index + 1] <= 0.5 + 1e-6) | (seen > index - 3)]
    return trend, values[last].mean() if len(last) >= 3 else math.nan


def finishes_by_brute_force(times: np.ndarray, levels: list[float]) -> list[bool]:
    there = [level >= DEFAULTS.finished_value for level in levels]
    finished: list[bool] = []
    since = 0
    for index, now in enumerate(times):
        was = bool(finished and finished[-1])
        unlike = [seen != was for seen in there[since : index + 1]]
        changes = unlike[-1]
        if changes:
            first = max((i for i, seen in enumerate(unlike) if not seen), default=-1) + 1
            changes = now - times[since + first] >= DEFAULTS.finished_hold - 1e-6
        if changes:
            since = index + 1
        finished.append(was != changes)
    return finished


def stalls_by_brute_force(times: np.ndarray, values: np.ndarray) -> list[bool]:
    trends, levels = zip(*(derived(times, values, i) for i in range(len(times))), strict=True)
    finished = finishes_by_brute_force(times, list(levels))
    stalls: list[bool] = []
    for index, (trend, level) in enumerate(zip(trends, levels, strict=True)):
        gain = trend * DEFAULTS.window
        there = finished[index] or level >= DEFAULTS.finished_value
        if stalls and stalls[-1]:
            stalls.append(gain < DEFAULTS.stall_recovery and not there)
        else:
            enough = index >= 11 and times[index] - times[0] >= DEFAULTS.window - 1e-6
            stalls.append(bool(enough and gain < DEFAULTS.stall_gain and not there))
    return stalls


STREAMS = st.lists(
    st.tuples(st.floats(0.02, 1.5), st.floats(-1.0, 0.0) | st.floats(-0.06, 0.0)),
    min_size=1,
    max_size=60,
).map(lambda steps: (np.cumsum([s for s, _ in steps]), np.array([v for _, v in steps])))


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_the_trend_is_the_slope_of_the_line_that_polyfit_draws(
    stream: tuple[np.ndarray, np.ndarray],
) -> None:
    times, values = stream
    for index, event in enumerate(follow(times, values)):
        expected = derived(times, values, index)[0]
        np.testing.assert_allclose(event.trend, expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_what_counts_as_done_is_derived_from_the_whole_stream(
    stream: tuple[np.ndarray, np.ndarray],
) -> None:
    times, values = stream
    levels = [derived(times, values, index)[1] for index in range(len(times))]
    assert [event.finished for event in follow(times, values)] == finishes_by_brute_force(
        times, levels
    )


@settings(max_examples=60, deadline=None)
@given(STREAMS)
def test_stalls_are_those_derived_from_the_whole_stream(
    stream: tuple[np.ndarray, np.ndarray],
) -> None:
    times, values = stream
    assert [event.stalled for event in follow(times, values)] == stalls_by_brute_force(
        times, values
    )


@pytest.mark.parametrize("seed", range(3))
def test_stalls_of_a_stop_and_go_are_those_derived_from_the_whole_stream(seed: int) -> None:
    times = grid(40.0)
    phase = (times - times[0]) % 13.0
    values = noisy(-0.9 + RISE * np.cumsum(phase < 7.0) / RATE, seed)
    stalls = [event.stalled for event in follow(times, values)]
    assert stalls == stalls_by_brute_force(times, values)
    assert 0 < sum(stalls) < len(stalls)


def test_a_block_is_told_within_three_seconds_and_steady_progress_never_stalls() -> None:
    seconds, blocked_after, runs = 20.0, 10.0, 300
    times = grid(seconds)
    since = times - times[0]
    late = false = 0
    for seed in range(runs):
        rising = noisy(-1.0 + RISE * since, seed)
        false += any(event.stalled for event in follow(times, rising))
        blocked = noisy(-1.0 + RISE * np.minimum(since, blocked_after), seed + runs)
        told = [
            at
            for at, event in zip(since, follow(times, blocked), strict=True)
            if event.stalled and at >= blocked_after
        ]
        late += not told or told[0] > blocked_after + 3.0
    assert late / runs <= 0.01
    assert false / runs <= 0.01


def test_a_stall_outlasts_the_noise_and_ends_with_a_real_gain() -> None:
    times = grid(40.0)
    since = times - times[0]
    kept = 0
    for seed in range(50):
        values = noisy(-0.8 + 0.1 * np.clip(since - 30.0, 0.0, 3.0), seed)
        stalled = np.array([event.stalled for event in follow(times, values)])
        assert stalled[since >= 5.0].any()
        first = int(np.flatnonzero(stalled)[0])
        kept += bool(stalled[first : np.searchsorted(since, 30.0)].all())
        assert not stalled[(since > 32.5) & (since < 33.0)].any()
    assert kept >= 48


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.02, 1.5), st.floats(-1.0, -0.1)), min_size=5, max_size=80),
    st.integers(0, 80),
)
@example([(0.2, -0.5)] * 40, 20)
def test_no_stall_begins_before_the_window_since_goal_or_subtask_has_passed(
    steps: list[tuple[float, float]], change: int
) -> None:
    events = ValueEvents(DEFAULTS)
    now = began = 0.0
    stalled = False
    for index, (step, value) in enumerate(steps):
        now += step
        if index in (0, change):
            began = now
        subtask = "second" if index >= change else "first"
        was, stalled = stalled, events.update(1, subtask, now, value, math.nan).stalled
        assert was or not stalled or now - began >= DEFAULTS.window - 1e-6


def test_a_stall_outlasts_a_new_subtask_which_is_no_progress_yet() -> None:
    events = ValueEvents(DEFAULTS)
    stalls = [
        events.update(1, "first" if at < 25 else "second", at / RATE, -0.5, math.nan).stalled
        for at in range(40)
    ]
    assert all(stalls[15:])


def test_a_planner_that_keeps_changing_its_mind_hides_no_stall() -> None:
    events = ValueEvents(DEFAULTS)
    stalls = [
        events.update(1, "pull" if at // RATE % 2 else "push", at / RATE, -0.5, math.nan).stalled
        for at in range(50)
    ]
    assert not any(stalls[:15])
    assert all(stalls[30:])


@pytest.mark.parametrize(("dip", "most"), [(0.05, 0), (0.1, 1)])
def test_a_dip_at_the_very_end_brings_the_planner_into_no_loop(dip: float, most: int) -> None:
    times = grid(20.0)
    since = times - times[0]
    for seed in range(50):
        rise = np.minimum(-0.5 + 0.07 * since, -0.01) - dip * (since > 8.0)
        values = rise + np.random.default_rng(seed).normal(0.0, 0.01, rise.shape)
        dropped = [event.dropped for event in follow(times, values)]
        assert np.sum(np.diff(dropped)) <= 2 * most


def test_a_value_that_falls_for_good_drops_once() -> None:
    times = grid(40.0)
    since = times - times[0]
    for seed in range(20):
        values = noisy(np.where(since < 10.0, -0.3, -0.6), seed)
        dropped = np.array([event.dropped for event in follow(times, values)])
        assert np.sum(np.diff(dropped.astype(int)) == 1) == 1
        assert not dropped[since > 17.0].any()


def test_a_drop_is_told_at_once_and_is_over_when_half_is_regained() -> None:
    times = grid(12.0)
    since = times - times[0]
    for seed in range(20):
        values = noisy(np.where(since < 5.0, -0.4, np.where(since < 8.0, -0.65, -0.42)), seed)
        dropped = [event.dropped for event in follow(times, values)]
        before, during = since < 5.0, (since >= 5.5) & (since < 8.0)
        assert not np.array(dropped)[before].any()
        assert np.array(dropped)[during].all()
        assert not np.array(dropped)[since >= 8.6].any()


def test_a_best_of_long_ago_is_no_drop() -> None:
    times = grid(20.0)
    slowly = -0.2 - 0.02 * (times - times[0])
    assert not any(event.dropped for event in follow(times, slowly))


def test_noise_alone_neither_drops_nor_finishes() -> None:
    times = grid(60.0)
    for seed in range(20):
        events = follow(times, noisy(np.full(times.shape, -0.3), seed))
        assert not any(event.dropped or event.finished for event in events)


def test_finished_takes_its_time_and_never_stalls() -> None:
    times = grid(15.0)
    since = times - times[0]
    for seed in range(20):
        values = np.minimum(noisy(np.minimum(-0.5 + 0.1 * since, -0.005), seed), 0.0)
        events = follow(times, values)
        finished = np.array([event.finished for event in events])
        assert not finished[since < 5.0].any()
        assert finished[since >= 8.0].all()
        assert not any(event.stalled for event in events)


def test_a_short_glimpse_of_the_end_finishes_nothing() -> None:
    values = np.full(50, -0.5)
    values[20:24] = -0.01
    assert not any(event.finished for event in follow(np.arange(50) / RATE, values))


def test_a_subtask_is_finished_by_its_own_value_and_a_new_one_begins_unfinished() -> None:
    events = ValueEvents(DEFAULTS)
    for at in range(20):
        flags = events.update(1, "grasp", at / RATE, -0.5, -0.01)
        assert flags.subtask_finished == (at / RATE >= 0.4 + DEFAULTS.subtask_hold)
        assert not flags.finished
    assert not events.update(1, "lift", 20 / RATE, -0.5, -0.01).subtask_finished
    assert not events.update(1, "", 21 / RATE, -0.5, -0.01).subtask_finished


@pytest.mark.parametrize("again", ["goal", "clock"])
def test_a_new_goal_and_a_clock_that_goes_back_start_afresh(again: str) -> None:
    events = ValueEvents(DEFAULTS)
    for at in range(40):
        stalled = events.update(1, "", 100 + at / RATE, -0.1, math.nan).stalled
    assert stalled
    goal, now = (2, 108.0) if again == "goal" else (1, 50.0)
    fresh = [events.update(goal, "", now + at / RATE, -0.9, math.nan) for at in range(12)]
    assert not any(event.stalled or event.dropped for event in fresh)
    assert math.isnan(fresh[0].trend)
    assert fresh[-1].trend == pytest.approx(0.0)


def test_what_is_not_finite_or_comes_twice_says_nothing() -> None:
    times, values = grid(12.0), noisy(-0.6 + RISE * (grid(12.0) - 1.7e9), 0)
    spoilt = ValueEvents(DEFAULTS)
    for plain, time, value in zip(follow(times, values), times, values, strict=True):
        spoilt.update(1, "", time - 0.05, math.nan, math.nan)
        spoilt.update(1, "", time - 0.04, math.inf, math.nan)
        assert spoilt.update(1, "", time, value, math.nan) == pytest.approx(plain, nan_ok=True)
        spoilt.update(1, "", time, -1.0, math.nan)


def test_a_slow_monitor_tells_a_stall_later_but_no_more_often_falsely() -> None:
    times = grid(18.0, rate=1.0)
    since = times - times[0]
    for seed in range(50):
        rising = noisy(-1.0 + RISE * since, seed)
        assert not any(event.stalled for event in follow(times, rising))
        flat = follow(times, noisy(np.full(times.shape, -0.5), seed))
        stalled = [at for at, event in zip(since, flat, strict=True) if event.stalled]
        assert 11.0 <= stalled[0] <= 16.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"window": 0.0}, "window is 0.0; it must be greater than 0"),
        ({"stall_recovery": 0.05}, "stall_recovery is 0.05; it must be greater than stall_gain"),
        ({"finished_value": 0.5}, "finished_value is 0.5; it must be between -1 and 0"),
        ({"drop": math.nan}, "drop is nan"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EventSettings(**wrong)
