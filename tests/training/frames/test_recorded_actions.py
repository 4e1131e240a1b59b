# SPDX-License-Identifier: Apache-2.0
"""Actions out of leader arms, trajectories and arrays of numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bag_samples import EPOCH, MS, joint_state
from frame_samples import (
    ACTION,
    ARM,
    LEADER,
    array_sample,
    contract,
    convert,
    frames_of,
    gaps_of,
    grid,
    in_order,
    joint_sample,
    only_front,
    steady,
    trajectory_sample,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.observation.assembler import ObservationAssembler
from vla_nodes.observation.observation import NotReady
from vla_training.data.bags.bag import Sample
from vla_training.data.frames.actions import ActionStream

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
COMMAND = replace(LEADER, topic="/command", joints=("a", "b"), type=TRAJECTORY)
NUMBERS = replace(COMMAND, type=ARRAY)


def stream(recorded=COMMAND, samples=(), timeline="header"):
    made = ActionStream(replace(ACTION, recorded=recorded), timeline, 4096)
    for receive, _, message in samples:
        header = getattr(message, "header", None)
        stamp = header and header.stamp.sec * 10**9 + header.stamp.nanosec
        made.add(message, made.time(stamp, receive), receive)
    return made


def values(actions, ms):
    """Values at a time, or (reason, detail)."""
    sample = actions.at(EPOCH + round(ms * MS))
    if isinstance(sample, NotReady):
        assert sample.stream == "actions.arm"
        return sample.reason, sample.detail
    return sample.values.tolist()


def without_leader(seconds=1.0):
    return [s for s in steady(seconds) if s.topic != "/leader"]


def test_a_leader_is_what_the_live_code_interpolates():
    rng = np.random.default_rng(5)
    leader = [
        joint_sample(ms + rng.uniform(-3, 3), rng.normal(size=2), "/leader", late=rng.uniform(0, 9))
        for ms in range(0, 1000, 20)
    ]
    recorded = replace(LEADER, joints=("lb", "la"), units="deg")
    extra = replace(
        ARM, name="leader", topic="/leader", joints=("lb", "la"), units="deg", max_age=0.15
    )
    live = ObservationAssembler(only_front(), (extra,))
    samples = in_order([*(s for s in steady(1.0) if s.topic != "/leader"), *leader])
    for receive, topic, message in samples:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        name = {"/front": "front", "/arm": "arm", "/leader": "leader"}[topic]
        add = live.add_image if name == "front" else live.add_state
        add(name, message, stamp, receive)
    frames = frames_of(convert(only_front(recorded=recorded), samples)[0])
    assert len(frames) > 25
    for frame in frames:
        np.testing.assert_array_equal(frame.action, live.observe(frame.stamp).extras["leader"])


def test_the_next_sample_is_that_of_the_next_time_of_the_grid():
    robot = only_front(recorded=replace(LEADER, sample="next"))
    items, source = convert(robot, steady(1.0))
    for frame in items:
        ms = (grid(EPOCH, frame.index + 1, 30) - EPOCH) / MS
        np.testing.assert_allclose(frame.action, [2 * ms, ms], rtol=0, atol=1e-6)
        np.testing.assert_allclose(frame.state[0], (frame.stamp - EPOCH) / MS, atol=1e-6)
    # The leader's last sample is of 980 ms; the frame at 967 ms needs one at 1000 ms.
    assert len(items) == 29
    assert source.tail == 1


def test_a_trajectory_counts_until_the_next_and_holds_its_last_point():
    samples = [trajectory_sample(ms, [(0, (ms, -ms))]) for ms in (0, 40, 100)]
    actions = stream(samples=samples)
    assert values(actions, -1) == ("missing", "no sample is as old")
    assert values(actions, 0) == [0, 0]
    assert values(actions, 39.999999) == [0, 0]
    assert values(actions, 40) == [40, -40]
    assert values(actions, 99) == [40, -40]
    assert values(actions, 250) == [100, -100]
    assert values(actions, 251)[0] == "stale"


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 2000), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(0, 2500),
    st.integers(0, 2**32 - 1),
)
def test_points_are_interpolated_at_the_time_asked_and_clamped(times, asked, seed):
    positions = np.random.default_rng(seed).normal(size=(len(times), 2))
    message = trajectory_sample(0, list(zip(np.array(times) / 10, positions, strict=True)))
    expected = [np.interp(asked / 10, np.array(times) / 10, column) for column in positions.T]
    actions = stream(replace(COMMAND, max_age=10.0), [message])
    np.testing.assert_allclose(values(actions, asked / 10), expected, rtol=0, atol=1e-12)


def test_a_trajectory_is_not_old_while_it_runs():
    actions = stream(samples=[trajectory_sample(0, [(300, (0, 0)), (800, (5, 10))])])
    assert values(actions, 100) == [0, 0]
    assert values(actions, 550) == [2.5, 5]
    assert values(actions, 950) == [5, 10]
    assert values(actions, 951)[0] == "stale"
    assert actions.at(EPOCH + 550 * MS).age == 0
    assert actions.at(EPOCH + 900 * MS).age == pytest.approx(0.1)


def test_joints_are_found_by_name_in_any_order():
    points = [(0, (3, 1, 2))]
    degrees = replace(COMMAND, joints=("y", "x"), units="deg")
    actions = stream(degrees, [trajectory_sample(0, points, ("z", "x", "y"))])
    np.testing.assert_allclose(values(actions, 5), np.deg2rad([2, 1]))


def test_a_trajectory_without_a_stamp_starts_when_it_was_received():
    samples = [trajectory_sample(0, [(0, (1, 1))], late=7, stamped=False)]
    actions = stream(samples=samples)
    assert values(actions, 6)[0] == "missing"
    assert values(actions, 7) == [1, 1]
    assert actions.monitor.report(0).faults == {}


def test_an_empty_trajectory_cancels_the_one_before():
    samples = [
        trajectory_sample(0, [(0, (1, 1)), (500, (9, 9))]),
        trajectory_sample(100, []),
        trajectory_sample(300, [(0, (2, 2))]),
    ]
    actions = stream(samples=samples)
    assert values(actions, 50) == [1.8, 1.8]
    assert values(actions, 100) == ("missing", "the trajectory has no points, which cancels")
    assert values(actions, 299)[0] in ("missing", "stale")
    assert values(actions, 300) == [2, 2]
    assert actions.monitor.report(0).faults == {}


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (trajectory_sample(10, [(0, (1,))]), "a point has 1 values for 2 joints"),
        (trajectory_sample(10, [(0, (1, np.nan))]), "the position of joint 'b' is not finite"),
        (trajectory_sample(10, [(0, (1, 2))], ("a", "c")), "joint 'b' is missing, found a, c"),
        (trajectory_sample(10, [(0, (1, 2))], ("a", "a")), "a joint is in the trajectory twice"),
        (trajectory_sample(10, [(5, (1, 2)), (5, (1, 2))]), "the times of the points do not rise"),
    ],
)
def test_a_trajectory_that_cannot_be_read_is_counted_and_missing_until_the_next(message, why):
    before, behind = (trajectory_sample(ms, [(0, (ms, ms))]) for ms in (0, 20))
    actions = stream(samples=[before, message, behind])
    assert values(actions, 9) == [0, 0]
    assert values(actions, 10) == values(actions, 19) == ("missing", why)
    assert values(actions, 20) == [20, 20]
    assert actions.monitor.report(0).faults == {"joints": 1}


def test_numbers_count_from_their_receipt_until_the_next():
    degrees = replace(NUMBERS, units="deg")
    actions = stream(degrees, [array_sample(0, (10, 20)), array_sample(50, (30, 40))])
    np.testing.assert_allclose(values(actions, 49), np.deg2rad([10, 20]))
    np.testing.assert_allclose(values(actions, 50), np.deg2rad([30, 40]))
    assert values(actions, 201)[0] == "stale"


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ((1, 2, 3), "3 values for 2 joints"),
        ((), "0 values for 2 joints"),
        ((np.inf, 1), "the position of joint 'a' is not finite"),
    ],
)
def test_numbers_that_do_not_fit_are_counted_and_missing_until_the_next(numbers, why):
    samples = [array_sample(0, (0, 0)), array_sample(10, numbers), array_sample(20, (2, 2))]
    actions = stream(NUMBERS, samples)
    assert values(actions, 9) == [0, 0]
    assert values(actions, 15) == ("missing", why)
    assert values(actions, 20) == [2, 2]
    assert actions.monitor.report(0).faults == {"joints": 1}


def test_frames_have_the_command_of_their_time():
    commands = [
        trajectory_sample(ms, [(0, (ms, 1)), (50, (ms + 50, 1))]) for ms in range(0, 1000, 50)
    ]
    robot = only_front(recorded=COMMAND)
    items, source = convert(robot, in_order([*without_leader(), *commands]))
    assert len(frames_of(items)) == 30
    for frame in items:
        ms = (frame.stamp - EPOCH) / MS
        np.testing.assert_allclose(frame.action, [ms, 1], rtol=0, atol=1e-6)
    assert source.faults()["actions.arm"] == {}


def test_an_operator_who_pauses_leaves_gaps_and_nothing_old():
    numbers = [array_sample(ms, (ms, ms)) for ms in range(0, 2500, 25) if not 800 < ms < 2000]
    robot = only_front(recorded=NUMBERS)
    items, _ = convert(robot, in_order([*without_leader(2.5), *numbers]))
    gaps = gaps_of(items)
    assert [g.index for g in gaps] == [
        k for k in range(75) if 950 * MS < grid(0, k, 30) < 2000 * MS
    ]
    assert {(g.stream, g.reason) for g in gaps} == {("actions.arm", "stale")}
    for frame in frames_of(items):
        ms = (frame.stamp - EPOCH) / MS
        expected = 800 if 800 <= ms < 2000 else ms // 25 * 25
        np.testing.assert_array_equal(frame.action, [expected] * 2)


def test_a_leader_that_lacks_a_joint_is_counted_and_missing():
    samples = steady(1.0)
    cut = [
        Sample(s.receive, s.topic, joint_state(s.receive, ["la"], [1.0]))
        if s.topic == "/leader" and s.receive > EPOCH + 500 * MS
        else s
        for s in samples
    ]
    items, source = convert(only_front(), cut)
    assert frames_of(items)[-1].stamp <= EPOCH + 500 * MS
    assert source.tail > 10
    assert source.faults()["actions.arm"] == {"joints": 24}


def test_on_the_timeline_of_receipt_commands_count_from_their_receipt():
    actions = stream(samples=[trajectory_sample(0, [(0, (1, 1))], late=30)], timeline="receive")
    assert values(actions, 29)[0] == "missing"
    assert values(actions, 30) == [1, 1]


def test_many_commands_take_bounded_memory():
    actions = ActionStream(replace(ACTION, recorded=NUMBERS), "header", 100)
    for ms in range(1000):
        actions.add(SimpleNamespace(data=np.array([ms, ms])), EPOCH + ms * MS, EPOCH + ms * MS)
    assert values(actions, 950) == [950, 950]
    assert values(actions, 700)[0] == "missing"


def test_two_arms_give_one_vector():
    left = replace(ACTION, name="left", prefix="l_")
    right = replace(ACTION, name="right", prefix="r_", recorded=NUMBERS)
    robot = replace(contract(), actions=(left, right), cameras=only_front().cameras, states=(ARM,))
    numbers = [array_sample(ms, (7, ms)) for ms in range(0, 1000, 10)]
    items, _ = convert(robot, in_order([*steady(1.0), *numbers]))
    assert len(items) == 30
    for frame in items:
        ms = (frame.stamp - EPOCH) / MS
        expected = [2 * ms, ms, 7, ms // 10 * 10]
        np.testing.assert_allclose(frame.action, expected, rtol=0, atol=1e-6)
