# SPDX-License-Identifier: Apache-2.0
"""Frames on the grid: which times, which gaps, and what waits in memory."""

import copy
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bag_samples import EPOCH, MS, SECOND, image, joint_state
from frame_samples import (
    ARM,
    FRONT,
    LEADER,
    ROBOT,
    Oracle,
    assert_same,
    camera_sample,
    contract,
    convert,
    flat,
    frames_of,
    gaps_of,
    grid,
    in_order,
    joint_sample,
    noise,
    only_front,
    steady,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_nodes.observation import assembler
from vla_training.data.bags.bag import Sample, Topic
from vla_training.data.errors import DataError
from vla_training.data.frames.frames import Frame, FrameSource, grid_offset
from vla_training.data.frames.topics import check_topics, topics_of


def shifted(samples, seconds):
    """Samples with stamps and receipts moved."""
    moved = []
    for receive, topic, message in samples:
        stamp = message.header.stamp
        stamp = SimpleNamespace(sec=stamp.sec + seconds, nanosec=stamp.nanosec)
        parts = {**vars(message), "header": SimpleNamespace(stamp=stamp)}
        moved.append(Sample(receive + seconds * SECOND, topic, SimpleNamespace(**parts)))
    return moved


def received(samples, shift):
    """Samples received at other times."""
    return [sample._replace(receive=shift(sample)) for sample in samples]


def test_times_of_the_grid_are_exact_for_hours():
    for fps in (1, 7, 24, 30, 48, 60, 1000):
        for steps in (0, 1, 2, 3, 29, 30, 31, 10**5 + 1, 10**7 + 3):
            assert EPOCH + grid_offset(steps, fps) == grid(EPOCH, steps, fps)
        assert grid_offset(fps * 86400, fps) == 86400 * SECOND


@settings(max_examples=200)
@given(st.integers(0, 10**9), st.integers(1, 1000))
def test_any_time_of_the_grid_is_that_of_exact_fractions(steps, fps):
    assert grid_offset(steps, fps) == grid(0, steps, fps)


def test_the_grid_runs_from_the_first_complete_frame_to_the_last():
    samples = [s for s in steady(2.0) if not (s.topic == "/leader" and s.receive < EPOCH + 50 * MS)]
    samples = [s for s in samples if not (s.topic == "/arm" and s.receive > EPOCH + 1500 * MS)]
    items, source = convert(only_front(), samples)
    # The camera shows at 0, 33, 66 ms; the leader begins at 60.
    start = EPOCH + 66 * MS
    assert items[0].stamp == start
    assert source.lead == 2
    count = (1500 - 66) * 30 // 1000 + 1
    assert [item.stamp for item in items] == [grid(start, k, 30) for k in range(count)]
    assert [item.index for item in items] == list(range(count))
    assert gaps_of(items) == []
    # The joints end at 1500 ms, the camera's last picture is of 1980, the leader's sample too.
    assert source.tail == sum(grid(66 * MS, k, 30) <= 1990 * MS for k in range(count, 100))


def test_a_phase_over_the_jitter_gives_every_picture_a_frame_of_its_own():
    rng = np.random.default_rng(0)
    samples = [
        camera_sample(50 * i + rng.uniform(-3, 3) * (i > 0), value=i, late=5) for i in range(40)
    ]
    samples += [s for s in steady(2.0) if s.topic != "/front"]
    samples = in_order(samples)
    shown = {}
    for phase in (0, 7 * MS):
        items, _ = convert(only_front(), samples, fps=20, phase=phase)
        assert [i.stamp for i in items] == [grid(EPOCH + phase, k, 20) for k in range(len(items))]
        shown[phase] = [int(frame.pictures["front"][0, 0, 0]) for frame in items]
    assert len(set(shown[0])) < len(shown[0]) - 5
    assert shown[7 * MS] == list(range(len(shown[7 * MS])))


def test_a_frame_has_the_numbers_of_its_time():
    items, _ = convert(only_front(), steady(1.0))
    assert len(items) == 30
    for frame in items:
        ms = (frame.stamp - EPOCH) / MS
        np.testing.assert_allclose(frame.state, [ms, -ms], rtol=0, atol=1e-6)
        np.testing.assert_allclose(frame.action, [2 * ms, ms], rtol=0, atol=1e-6)
        shown = int(ms // 33)
        assert (frame.pictures["front"] == [shown, 0, 7]).all()
        assert frame.ages["front"] == pytest.approx((ms - 33 * shown) / 1000)
        assert frame.skews["front"] == pytest.approx(-(ms - 33 * shown) / 1000)
        assert set(frame.ages) == set(frame.skews) == {"front", "arm", "actions.arm"}


def test_a_robot_without_cameras_counts_from_its_reference_state():
    robot = contract(cameras=(), states=(ARM,), reference="arm")
    items, _ = convert(robot, [s for s in steady(1.0) if s.topic != "/front"], fps=20)
    assert items[0].stamp == EPOCH
    assert [i.stamp for i in items] == [grid(EPOCH, k, 20) for k in range(len(items))]
    assert len(items) == 20
    assert all(item.pictures == {} for item in items)
    np.testing.assert_allclose([i.state[0] for i in items], np.arange(0, 1000, 50))


def test_a_camera_that_stops_for_a_while_leaves_gaps_that_name_it():
    samples = [s for s in steady(2.0) if not (s.topic == "/front" and 500 < after(s) < 1000)]
    items, source = convert(only_front(), samples)
    gaps = gaps_of(items)
    # The last picture before is of 495 ms and may be 0.11 s off; the next is of 1023.
    expected = [k for k in range(60) if 605 * MS < grid(0, k, 30) < 1023 * MS]
    assert [gap.index for gap in gaps] == expected
    assert {(gap.stream, gap.reason) for gap in gaps} == {("front", "stale")}
    assert "max_age is 0.12 s" in gaps[-1].detail
    assert [item.index for item in items] == list(range(len(items)))
    assert source.tail == 0


def after(sample):
    """ms from EPOCH to a sample's receipt."""
    return (sample.receive - EPOCH) / MS


def test_joints_that_stop_leave_gaps_and_nothing_is_interpolated_across():
    samples = [s for s in steady(2.0) if not (s.topic == "/arm" and 500 < after(s) < 750)]
    items, _ = convert(only_front(), samples)
    assert [g.index for g in gaps_of(items)] == [
        k for k in range(60) if 500 * MS < grid(0, k, 30) < 750 * MS
    ]
    assert {gap.stream for gap in gaps_of(items)} == {"arm"}


def test_nothing_is_made_of_a_recording_that_lacks_a_stream():
    samples = [s for s in steady(3.0) if s.topic != "/leader"]
    items, source = convert(only_front(), samples)
    assert items == []
    assert source.lead == len([s for s in samples if s.topic == "/front"])
    assert source.refusal == "actions.arm is missing: nothing was received"
    assert source.tail == 0
    items, source = convert(only_front(), [])
    assert items == []
    assert source.refusal == "front is missing: nothing was received"


def test_samples_that_were_all_refused_are_told_from_samples_that_never_came():
    ahead = received(steady(1.0), lambda s: s.receive - 80 * MS)
    items, source = convert(only_front(), ahead)
    assert items == []
    begin = "front is missing: nothing was received; refused samples: 31 future; the last: future: "
    assert source.refusal.startswith(begin)


def test_a_refusal_names_the_joint_that_is_not_there():
    samples = steady(1.0)
    for sample in samples:
        if sample.topic == "/leader":
            sample.message.name[1] = "wrist"
    _, source = convert(only_front(), samples)
    assert "refused samples: 50 joints" in source.refusal
    assert "joint 'lb' is missing, found la, wrist" in source.refusal


def test_the_ending_is_what_lacks_most_in_the_longest_tail():
    parts = [steady(seconds, start=start) for seconds, start in ((1.0, 0), (2.0, 90_000))]
    kept = [
        [s for s in parts[0] if s.topic != "/leader" or after(s) < 900],
        [s for s in parts[1] if s.topic != "/arm" or after(s) < 91_000],
    ]
    _, source = convert(only_front(), [s for part in kept for s in part])
    assert source.ending.startswith("arm is stale: ")
    assert source.tail == 33
    assert convert(only_front(), [])[1].ending == ""


def test_the_refusal_is_the_most_frequent_one():
    samples = steady(2.0)
    for sample in samples:
        if sample.topic == "/front":
            sample.message.encoding = "bgr8"
    _, source = convert(only_front(), [s for s in samples if s.topic != "/leader" or after(s) > 90])
    assert source.refusal.startswith("front is corrupt: encoding is 'bgr8', expected 'rgb8'")


def streams(draw_delay, rng, seconds=1.5, drop=0.0, jitter=3.0, twice=0.0):
    """Random samples of ``ROBOT``."""
    samples = []
    for topic, period in (
        ("/front", 33.4),
        ("/wrist", 41.0),
        ("/arm", 9.7),
        ("/base", 31.0),
        ("/leader", 21.0),
    ):
        for i, ms in enumerate(np.arange(0, seconds * 1000, period)):
            if rng.random() < drop:
                continue
            stamp = EPOCH + round((ms + rng.uniform(-jitter, jitter)) * MS)
            if topic in ("/front", "/wrist"):
                message = noise(stamp, [i, len(topic)])
            else:
                names = {"/base": ["x"], "/arm": ["b", "a", "other"], "/leader": ["la", "lb"]}
                values = rng.normal(size=len(names[topic]))
                message = joint_state(stamp, names[topic], values)
            samples += [
                Sample(stamp + round(draw_delay(topic) * MS), topic, message)
                for _ in range(1 + (rng.random() < twice))
            ]
    return in_order(samples)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.05, 0.4]),
    st.sampled_from([0.0, 4.0, 40.0]),
    st.sampled_from(["constant", "slow camera", "random"]),
    st.sampled_from(["frame", "next"]),
    st.sampled_from(["header", "receive"]),
    st.sampled_from(["front", "wrist", "arm"]),
    st.sampled_from([7, 30, 45]),
)
def test_frames_are_those_of_looking_at_all_messages_at_once(
    seed, drop, jitter, delays, sample, timeline, reference, fps
):
    rng = np.random.default_rng(seed)
    delay = {
        "constant": lambda _: 2.0,
        "slow camera": lambda topic: 300.0 if topic == "/front" else 2.0,
        # Overtakes: samples arrive out of order within their stream, and twice.
        "random": lambda _: float(rng.uniform(0, 60)),
    }[delays]
    samples = streams(delay, rng, drop=drop, jitter=jitter, twice=0.1)
    robot = contract(
        replace(LEADER, sample=sample, units="deg"), timeline=timeline, reference=reference
    )
    items, _ = convert(robot, samples, fps)
    assert_same(items, Oracle(robot, samples).frames(fps))


def test_a_late_camera_changes_nothing_but_what_waits():
    samples = steady(2.0)
    late = in_order(received(samples, lambda s: s.receive + (s.topic == "/front") * 300 * MS))
    items, _ = convert(only_front(), samples)
    again, source = convert(only_front(), late)
    assert [(i.index, i.stamp) for i in again] == [(i.index, i.stamp) for i in items]
    for frame, other in zip(items, again, strict=True):
        np.testing.assert_array_equal(frame.pictures["front"], other.pictures["front"])
        np.testing.assert_array_equal(frame.state, other.state)
    assert source.faults() == {"front": {}, "arm": {}, "actions.arm": {}}


class Album:
    """Passes samples on with pictures that nobody else holds, and counts those still in use."""

    def __init__(self, samples):
        self.samples = samples
        self.pixels = []
        self.most = 0

    def __iter__(self):
        for receive, topic, message in self.samples:
            if topic in ("/front", "/wrist"):
                message = copy.copy(message)
                message.data = message.data.copy()
                self.pixels.append(weakref.ref(message.data))
            yield Sample(receive, topic, message)
            del message
            self.pixels = [ref for ref in self.pixels if ref() is not None]
            self.most = max(self.most, len(self.pixels))


def pictures_at_once(samples, robot):
    album = Album(samples)
    made = sum(isinstance(item, Frame) for item in FrameSource(robot, 30).frames(album))
    return album.most, made


def test_as_few_pictures_wait_as_the_slowest_stream_is_late():
    samples = steady(6.0)
    late = in_order(received(samples, lambda s: s.receive + (s.topic == "/arm") * 300 * MS))
    most, made = pictures_at_once(samples, only_front())
    assert most <= 4
    assert made == 180
    most, made = pictures_at_once(late, only_front())
    assert most <= 300 / 33 + 4
    assert made == 180


@pytest.mark.parametrize("dead", ["/wrist", "/arm", "/leader", "/front"])
def test_a_dead_stream_neither_blocks_nor_fills_the_memory(dead):
    samples = steady(8.0) + [
        sample._replace(topic="/wrist") for sample in steady(8.0) if sample.topic == "/front"
    ]
    robot = contract(states=(replace(ARM, max_age=0.5),))
    for begins in (0, 2000):
        lacking = [s for s in in_order(samples) if s.topic != dead or after(s) < begins]
        most, made = pictures_at_once(lacking, robot)
        assert most <= 2 * (1000 + 500) / 33 + 8
        assert made == 0 if begins == 0 else 58 <= made <= 64


def test_only_pictures_of_frames_are_decoded_and_each_once(monkeypatch):
    decoded = []
    real = assembler.decode_camera

    def decode(camera, message):
        decoded.append(id(message))
        return real(camera, message)

    monkeypatch.setattr(assembler, "decode_camera", decode)
    samples = steady(2.0, camera=10.0)
    items, _ = convert(only_front(), samples, fps=5)
    assert len(decoded) == len(items) == 10
    decoded.clear()
    items, _ = convert(only_front(), steady(1.0, camera=100.0), fps=50)
    assert len(items) > 3 * len(decoded)
    assert len(decoded) == len(set(decoded)) == 10


def test_a_corrupt_picture_is_a_gap_and_not_the_one_before():
    samples = steady(1.0)
    bad = next(i for i, s in enumerate(samples) if s.topic == "/front" and after(s) == 330)
    stamp = samples[bad].receive
    for message, detail in (
        (flat(1, stamp, size=(16, 6)), "width is 16, expected 8"),
        (image(stamp, np.zeros((6, 8, 3), np.uint8)), "encoding is 'bgr8', expected 'rgb8'"),
        (flat(1, stamp), "data length is 100, expected 144"),
    ):
        if "encoding" in detail:
            message.encoding = "bgr8"
        if "length" in detail:
            message.data = message.data[:100]
        spoilt = [*samples]
        spoilt[bad] = Sample(stamp, "/front", message)
        items, source = convert(only_front(), spoilt)
        gaps = [k for k in range(30) if 330 * MS <= grid(0, k, 30) < 363 * MS]
        assert [(g.index, g.stream, g.reason, g.detail) for g in gaps_of(items)] == [
            (k, "front", "corrupt", detail) for k in gaps
        ]
        assert len(items) == 30
        assert source.faults()["front"] == {"corrupt": 1}


def test_text_out_of_a_message_is_bounded_and_on_one_line():
    samples = steady(1.0)
    name = "x\n\x1b[31m" * 1000
    for sample in samples:
        if sample.topic == "/front" and after(sample) == 330:
            sample.message.encoding = name
    (gap,) = gaps_of(convert(only_front(), samples)[0])
    assert len(gap.detail) < 400
    assert gap.detail.isprintable()


def test_joints_that_cannot_be_read_are_counted():
    samples = steady(1.0)
    for sample in samples:
        if sample.topic == "/arm" and 300 < after(sample) < 400:
            sample.message.position = np.array([np.nan, 0.0])
    items, source = convert(only_front(states=(replace(ARM, max_age=0.05),)), samples)
    assert {g.stream for g in gaps_of(items)} == {"arm"}
    assert source.faults()["arm"] == {"joints": 9}


def test_samples_that_come_twice_or_late_are_counted():
    samples = steady(1.0)
    again = [s._replace(receive=s.receive + 1) for s in samples if s.topic == "/front"]
    back = [joint_sample(ms - 15, (9e9, 9e9), late=15) for ms in range(500, 600, 10)]
    items, source = convert(only_front(), samples)
    other, spoilt = convert(only_front(), in_order([*samples, *again, *back]))
    for frame, same in zip(items, other, strict=True):
        np.testing.assert_array_equal(frame.state, same.state)
    assert spoilt.faults() == {
        "front": {"duplicate": len(again)},
        "arm": {"out_of_order": 10},
        "actions.arm": {},
    }
    assert source.faults() == {"front": {}, "arm": {}, "actions.arm": {}}


@pytest.mark.parametrize("first", ["/front", "/arm", "/leader"])
def test_after_a_clock_that_steps_back_a_new_grid_begins(first):
    before, behind = steady(2.0, start=5000), steady(2.0, start=17)
    samples = [*before, *sorted(behind, key=lambda s: (s.receive, s.topic != first))]
    start = next(i for i, s in enumerate(samples) if i >= len(before) and s.topic == first)
    samples = [*before, *samples[start:]]
    # A bag's clock of receipt goes on while the simulated one starts anew.
    samples = [s._replace(receive=EPOCH + 10 * SECOND + i) for i, s in enumerate(samples)]
    items, source = convert(only_front(), samples)
    (jump,) = gaps_of(items)
    assert (jump.stream, jump.reason) == (
        {"/front": "front", "/arm": "arm", "/leader": "actions.arm"}[first],
        "clock_jump",
    )
    assert [item.index for item in items] == list(range(len(items)))
    at = items.index(jump)
    oracle = [Oracle(only_front(), part).frames(30) for part in (before, samples[len(before) :])]
    assert [i.stamp for i in items[:at]] == [time for time, _ in oracle[0]]
    assert [i.stamp for i in items[at + 1 :]] == [time for time, _ in oracle[1]]
    for frame in frames_of(items):
        ms = (frame.stamp - EPOCH) / MS
        np.testing.assert_allclose(frame.state, [ms, -ms], rtol=0, atol=1e-6)
        shown = int((ms - (17 if ms < 4000 else 5000)) // 33)
        assert (frame.pictures["front"] == [shown, 0, 7]).all()
    assert sum(f.get("clock_jump", 0) for f in source.faults().values()) == 1


def test_a_clock_that_is_set_years_ahead_begins_a_new_grid_without_the_years_between():
    samples = [*steady(1.0), *shifted(steady(1.0), 10**8)]
    items, _ = convert(only_front(), samples)
    (jump,) = gaps_of(items)
    assert jump.reason == "clock_jump"
    assert "forward" in jump.detail
    assert len(frames_of(items)) == 60
    second = [item.stamp for item in items[items.index(jump) + 1 :]]
    assert second == [grid(EPOCH + 10**8 * SECOND, k, 30) for k in range(30)]


def test_frames_are_made_where_stamps_and_receipts_are_of_different_clocks():
    """A simulated clock in a bag that was recorded by the wall clock."""
    samples = received(steady(1.0), lambda s: s.receive + 10**9 * SECOND)
    items, _ = convert(only_front(), samples)
    assert len(items) == len(frames_of(items)) == 30


def test_a_pause_of_the_recording_is_as_many_gaps_as_frames_are_missing():
    items, _ = convert(only_front(), [*steady(1.0), *steady(1.0, start=20_000)])
    assert [item.stamp for item in items] == [grid(EPOCH, k, 30) for k in range(len(items))]
    assert items[-1].stamp > EPOCH + 20_900 * MS
    assert 570 <= len(gaps_of(items)) <= 575
    assert not any(g.stamp < EPOCH + 900 * MS for g in gaps_of(items))


def test_one_topic_may_serve_state_and_action():
    recorded = replace(LEADER, topic="/arm", joints=("a", "b"), sample="next")
    items, _ = convert(only_front(recorded=recorded), steady(1.0))
    for frame in items:
        following = grid(EPOCH, frame.index + 1, 30)
        ms = (following - EPOCH) / MS
        np.testing.assert_allclose(frame.action, [ms, -ms], rtol=0, atol=1e-6)


def test_depth_is_refused():
    topics = {
        topic: Topic(topic, kind, 1)
        for topic, kind in (
            ("/front", FRONT.type),
            ("/arm", "sensor_msgs/msg/JointState"),
            ("/leader", LEADER.type),
        )
    }
    depth = only_front(cameras=(replace(FRONT, encoding="16UC1"),))
    with pytest.raises(DataError, match=r"cameras\.front\.encoding: 16UC1 is depth"):
        check_topics(depth, topics)
    check_topics(only_front(), topics)


def test_every_topic_that_lacks_is_named_with_what_may_have_been_meant():
    image_type = "sensor_msgs/msg/CompressedImage"
    topics = {
        "/front": Topic("/front", image_type, 5),
        "/wrist/image": Topic("/wrist/image", "sensor_msgs/msg/Image", 5),
        "/arm": Topic("/arm", "sensor_msgs/msg/JointState", 0),
        "/bases": Topic("/bases", "sensor_msgs/msg/JointState", 5),
    }
    with pytest.raises(DataError) as raised:
        check_topics(ROBOT, topics)
    assert str(raised.value).split("; ") == [
        f"cameras.front.type: /front is {image_type}, expected sensor_msgs/msg/Image",
        ["cameras.wrist.topic: /wrist is not in the bag", "did you mean /wrist/image?"][0],
        "did you mean /wrist/image?",
        "states.arm.topic: /arm has no messages",
        "states.base.topic: /base is not in the bag",
        "did you mean /bases?",
        "actions.arm.recorded.topic: /leader is not in the bag",
        "did you mean /arm or /bases?",
    ]
    assert topics_of(ROBOT) == {"/front", "/wrist", "/arm", "/base", "/leader"}


def test_the_command_topic_serves_where_nothing_was_recorded():
    assert topics_of(contract(recorded=None)) == {"/front", "/wrist", "/arm", "/base", "/command"}
    with pytest.raises(DataError, match=r"actions\.arm\.topic: /command is not in the bag"):
        check_topics(contract(recorded=None), {})
