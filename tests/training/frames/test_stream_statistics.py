# SPDX-License-Identifier: Apache-2.0
"""Figures about streams, against numpy over the whole recording."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from bag_samples import EPOCH, MS, SECOND
from frame_samples import (
    LEADER,
    array_sample,
    camera_sample,
    convert,
    frames_of,
    in_order,
    joint_sample,
    only_front,
    steady,
)

from vla_training.data.bags.bag import Sample
from vla_training.data.frames.frames import Frame
from vla_training.data.frames.stream_statistics import StreamStatistics


def topics(samples):
    statistics = StreamStatistics(only_front(), 30)
    assert list(statistics.watch(iter(samples))) == samples
    report = statistics.report()
    assert json.loads(json.dumps(report)) == report
    return report["topics"]


def frame_figures(robot, samples, fps=30):
    statistics = StreamStatistics(robot, fps)
    items, _ = convert(robot, list(statistics.watch(samples)), fps)
    for frame in frames_of(items):
        statistics.add(frame)
    return statistics.report()["frames"], frames_of(items)


def spread(values):
    quantiles = {f"p{p}": np.percentile(values, p) for p in (50, 95, 99)}
    return pytest.approx({**quantiles, "max": np.max(values)})


def test_rates_and_jitter_are_those_of_the_periods():
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.normal(20, 1.5, 500))
    delays = rng.uniform(1, 9, 500)
    samples = [joint_sample(t, late=late) for t, late in zip(times, delays, strict=True)]
    found = topics(samples)["/arm"]
    periods = np.diff(np.round(times * MS)) / MS
    assert found["messages"] == 500
    assert found["rate_hz"]["nominal"] == pytest.approx(1000 / np.median(periods))
    assert found["rate_hz"]["effective"] == pytest.approx(499 / (times[-1] - times[0]) * 1000)
    assert found["jitter_ms"] == spread(np.abs(periods - np.median(periods)))
    assert found["delay_ms"] == spread(np.round(delays * MS) / MS)
    assert found["gaps"] == {"count": 0, "longest_ms": None}
    assert found["faults"] == {}


def test_gaps_say_how_long_and_where():
    lost = {10, 11, 12, 40, 41, 70}
    found = topics([joint_sample(10 * i) for i in range(100) if i not in lost])["/arm"]
    # One that is lost leaves two periods, two leave three, three leave four.
    assert found["gaps"] == {"count": 2, "longest_ms": 40.0}
    assert found["rate_hz"]["nominal"] == pytest.approx(100)
    assert found["rate_hz"]["effective"] == pytest.approx(100 * 93 / 99)


def test_stamps_that_are_refused_are_counted_and_do_not_disturb_the_figures():
    samples = [joint_sample(10 * i) for i in range(100)]
    samples += [joint_sample(500, late=600), joint_sample(980, late=20)]
    samples += [Sample(EPOCH + 1001 * MS, "/arm", joint_sample(2000).message)]
    zero = joint_sample(1002).message
    zero.header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    samples += [Sample(EPOCH + 1002 * MS, "/arm", zero)]
    samples = in_order([*samples, joint_sample(990, late=1)])
    found = topics(samples)["/arm"]
    assert found["messages"] == 105
    assert found["faults"] == {
        "duplicate": 1,
        "out_of_order": 2,
        "future": 1,
        "unstamped": 1,
    }
    assert found["jitter_ms"]["max"] == 0
    assert found["rate_hz"]["effective"] == pytest.approx(100)


def test_a_clock_that_jumps_is_no_period():
    samples = [joint_sample(5000 + 10 * i) for i in range(50)]
    samples += [joint_sample(10 * i, late=6000) for i in range(50)]
    found = topics(samples)["/arm"]
    assert found["faults"] == {"clock_jump": 1}
    assert found["gaps"]["count"] == 0
    assert found["rate_hz"]["effective"] == pytest.approx(100)


def test_messages_without_a_stamp_are_timed_by_their_receipt():
    found = topics([array_sample(25 * i, (1, 2)) for i in range(41)])["/command"]
    assert found["rate_hz"] == pytest.approx({"nominal": 40, "effective": 40})
    assert found["delay_ms"] is None
    assert found["faults"] == {}


def test_few_messages_have_few_figures():
    assert topics([]) == {}
    found = topics([camera_sample(0, late=3)])["/front"]
    assert found == {
        "messages": 1,
        "bytes": 144,
        "rate_hz": {"nominal": None, "effective": None},
        "jitter_ms": None,
        "gaps": {"count": 0, "longest_ms": None},
        "delay_ms": {"p50": 3.0, "p95": 3.0, "p99": 3.0, "max": 3.0},
        "faults": {},
    }


def test_ages_and_skews_are_those_of_the_samples_around_each_frame():
    rng = np.random.default_rng(2)
    camera = np.arange(0, 5000, 33.4) + rng.uniform(-3, 3, 150)
    joints = np.arange(-20, 5000, 21.0) + rng.uniform(-5, 5, 240)
    samples = [camera_sample(t) for t in camera]
    samples += [joint_sample(t) for t in joints]
    samples += [joint_sample(t, topic="/leader") for t in joints]
    figures, frames = frame_figures(only_front(), in_order(samples))
    times = np.array([frame.stamp for frame in frames])
    assert len(times) > 140

    def before(samples):
        stamps = EPOCH + np.round(samples * MS).astype(np.int64)
        return stamps[stamps.searchsorted(times, side="right") - 1]

    def nearest(samples):
        stamps = EPOCH + np.round(samples * MS).astype(np.int64)
        return np.abs(stamps[None] - times[:, None]).min(axis=1)

    for stream, stamps in (("front", camera), ("arm", joints), ("actions.arm", joints)):
        found = figures["streams"][stream]
        assert found["age_ms"] == spread((times - before(stamps)) / MS)
        skews = (times - before(stamps)) if stream == "front" else nearest(stamps)
        assert found["skew_ms"] == spread(skews / MS)
        repeats = int((np.diff(before(stamps)) == 0).sum())
        assert found["repeats"] == repeats


def test_a_slow_camera_in_a_fast_dataset_shows():
    figures, frames = frame_figures(only_front(), steady(10.0, camera=1000 / 23.5))
    assert figures["fps"] == 30
    assert figures["grid_fps"] == pytest.approx(30, abs=1e-6)
    assert figures["effective_fps"] == pytest.approx(23.5, abs=0.15)
    pictures = [int(frame.pictures["front"][0, 0, 0]) for frame in frames]
    repeats = sum(a == b for a, b in pairwise(pictures))
    assert figures["streams"]["front"]["repeats"] == repeats


def test_gaps_between_frames_do_not_change_the_rate_of_the_grid():
    samples = [s for s in steady(3.0) if not EPOCH + SECOND < s.receive < EPOCH + 2 * SECOND]
    figures, frames = frame_figures(only_front(), samples)
    assert figures["count"] == len(frames) < 70
    assert figures["grid_fps"] == pytest.approx(30, abs=1e-6)


def test_without_frames_there_are_no_figures():
    figures, _ = frame_figures(only_front(), [])
    assert figures == {
        "count": 0,
        "fps": 30,
        "grid_fps": None,
        "effective_fps": None,
        "streams": {},
    }


def test_repeats_of_the_next_action_are_those_of_its_samples():
    robot = only_front(recorded=replace(LEADER, sample="next"))
    figures, frames = frame_figures(robot, steady(3.0, leader=100.0))
    assert isinstance(frames[0], Frame)
    assert figures["streams"]["actions.arm"]["repeats"] == pytest.approx(len(frames) * 2 / 3, abs=2)
