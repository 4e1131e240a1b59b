# SPDX-License-Identifier: Apache-2.0
"""The robot and the dataset see the same numbers; a recording gives exactly its grid."""

from fractions import Fraction

import numpy as np
import pytest
from bag_samples import (
    EPOCH,
    MS,
    SECOND,
    Recording,
    picture,
    position,
    sample_contract,
    sample_messages,
    stamp_of,
    write_bag,
)
from frame_samples import (
    camera_sample,
    convert,
    frames_of,
    in_order,
    joint_sample,
    noise,
    only_front,
)

from vla_nodes.contract.schema import StateSource
from vla_nodes.observation.assembler import ObservationAssembler
from vla_nodes.observation.observation import Observation
from vla_training.data.bags.bag import Sample, open_bag
from vla_training.data.frames.frames import FrameSource
from vla_training.data.frames.stream_statistics import StreamStatistics
from vla_training.data.frames.topics import check_topics, topics_of


def live(contract, messages):
    """Observations by stamp, taken like the policy node takes them: the newest at each message."""
    recorded = contract.actions[0].recorded
    leader = StateSource("leader", recorded.topic, recorded.joints, recorded.max_age)
    assembler = ObservationAssembler(contract, (leader,))
    adders = {
        **{c.topic: (assembler.add_image, c.name) for c in contract.cameras},
        **{s.topic: (assembler.add_state, s.name) for s in (*contract.states, leader)},
    }
    made = {}
    for message in messages:
        add, name = adders[message.topic]
        add(name, message.value, stamp_of(message), message.receive)
        observation = assembler.latest(message.receive)
        if isinstance(observation, Observation):
            made.setdefault(observation.stamp, observation)
    return made


def on_the_grid(cameras, jitter):
    """Messages whose reference is exactly on a grid of 10 Hz, while the others wander and drop.

    The reference arrives last: the robot cannot wait for a picture that is still on its way.
    """
    reference = "/front/image" if cameras else "/joint_states"
    exact = sample_messages(Recording(seconds=4.0, cameras=cameras))
    wandering = Recording(
        seconds=4.0,
        jitter=jitter,
        cameras=cameras,
        keep=lambda _, stamp: (stamp - EPOCH) // (10 * MS) % 17 != 0 or stamp == EPOCH,
    )
    others = [m for m in sample_messages(wandering) if m.topic != reference]
    late = [m._replace(receive=m.receive + 5 * MS) for m in exact if m.topic == reference]
    return in_order([*others, *late])


@pytest.mark.parametrize(("cameras", "jitter"), [(True, 0.0), (True, 4.0), (False, 4.0)])
def test_every_number_and_pixel_of_a_frame_is_that_of_the_live_observation(
    tmp_path, cameras, jitter
):
    contract = sample_contract(tmp_path, cameras=cameras)
    messages = on_the_grid(cameras, jitter)
    seen = live(contract, messages)
    items, _ = convert(contract, [Sample(m.receive, m.topic, m.value) for m in messages], fps=10)
    frames = {frame.stamp: frame for frame in frames_of(items)}
    assert len(frames) >= 30
    # The robot goes on at the reference's newest stamp, and so leaves some out.
    both = set(seen) & set(frames)
    assert len(both) >= 0.5 * len(frames)
    for stamp in both:
        frame, observation = frames[stamp], seen[stamp]
        names = [camera.name for camera in contract.cameras]
        assert list(frame.pictures) == list(observation.images) == names
        for name, pixels in observation.images.items():
            np.testing.assert_array_equal(frame.pictures[name], pixels)
        np.testing.assert_array_equal(frame.state, observation.state)
        np.testing.assert_array_equal(frame.action, observation.extras["leader"])
        for name, skew in observation.skews.items():
            assert frame.skews["actions.arm" if name == "leader" else name] == skew


def test_a_bag_on_disk_gives_what_was_put_in(tmp_path):
    contract = sample_contract(tmp_path)
    messages = sample_messages(Recording(seconds=2.0))
    path = write_bag(tmp_path / "bag", messages)
    with open_bag(path) as bag:
        check_topics(contract, bag.topics)
        items = list(FrameSource(contract, 10).frames(bag.messages(topics_of(contract))))
    frames = frames_of(items)
    assert len(frames) == len(items) >= 19
    for frame in frames:
        np.testing.assert_allclose(frame.state, position(frame.stamp), atol=1e-4)
        np.testing.assert_allclose(frame.action, position(frame.stamp + SECOND // 2), atol=1e-4)
        np.testing.assert_array_equal(frame.pictures["front"], picture(frame.stamp, 64, 48))
        wrist = picture(frame.stamp + SECOND, 64, 64)
        np.testing.assert_array_equal(frame.pictures["wrist"], wrist)


@pytest.mark.parametrize("seed", range(3))
def test_joints_at_48_hz_and_a_camera_at_30_hz_with_jitter_give_exactly_30_fps(seed):
    rng = np.random.default_rng(seed)
    seconds, fps = 20, 30
    camera = np.arange(0, seconds * 1000, 1000 / 30) + rng.uniform(-4, 4, 30 * seconds)
    joints = np.arange(-30, seconds * 1000, 1000 / 48)
    joints = joints + rng.uniform(-3, 3, len(joints))
    values = rng.normal(size=(len(joints), 2))
    samples = []
    for number, ms in enumerate(camera):
        sample = camera_sample(ms, late=25)
        samples.append(sample._replace(message=noise_at(sample.message, number)))
    for ms, row in zip(joints, values, strict=True):
        samples.append(joint_sample(ms, row, late=2))
        samples.append(joint_sample(ms, row + 1, "/leader", late=3))
    robot = only_front()
    statistics = StreamStatistics(robot, fps)
    items, source = convert(robot, list(statistics.watch(in_order(samples))), fps)
    frames = frames_of(items)
    for frame in frames:
        statistics.add(frame)
    figures = statistics.report()

    # The grid: not one frame missing, none off by a nanosecond.
    start = EPOCH + round(camera[0] * MS)
    assert len(items) == len(frames) >= fps * seconds - 1
    for k, frame in enumerate(frames):
        exact = start + Fraction(k * SECOND, fps)
        assert abs(frame.stamp - exact) <= Fraction(1, 2)
    assert source.lead == 0
    assert figures["frames"]["grid_fps"] == pytest.approx(30.0, abs=1e-6)

    # The states are what numpy interpolates between the raw samples.
    times = np.array([frame.stamp - EPOCH for frame in frames]) / SECOND
    stamps = np.round(joints * MS) / SECOND
    for column in range(2):
        expected = np.interp(times, stamps, values[:, column])
        found = [frame.state[column] for frame in frames]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        found = [frame.action[column] for frame in frames]
        np.testing.assert_allclose(found, expected + 1, rtol=0, atol=1e-6)

    # The pictures are the newest not after, and the skews those of the stamps.
    shown_at = [EPOCH + round(ms * MS) for ms in camera]
    newest = [max(i for i, s in enumerate(shown_at) if s <= frame.stamp) for frame in frames]
    for frame, number in zip(frames, newest, strict=True):
        pixels = noise(0, number).data.reshape(6, 8, 3)
        np.testing.assert_array_equal(frame.pictures["front"], pixels)
    ages = [(f.stamp - shown_at[i]) / MS for f, i in zip(frames, newest, strict=True)]
    streams = figures["frames"]["streams"]
    assert streams["front"]["skew_ms"]["p95"] == pytest.approx(np.percentile(ages, 95))
    assert streams["front"]["skew_ms"]["max"] == pytest.approx(max(ages))
    skews = [1000 * np.abs(stamps - time).min() for time in times]
    assert streams["arm"]["skew_ms"]["p50"] == pytest.approx(np.median(skews), abs=1e-5)
    distinct = len(set(newest)) / len(frames) * fps
    assert figures["frames"]["effective_fps"] == pytest.approx(distinct)
    assert figures["topics"]["/arm"]["rate_hz"]["effective"] == pytest.approx(48, abs=0.1)


def noise_at(message, number):
    """A picture of noise with the stamp of another message."""
    made = noise(0, number)
    made.header = message.header
    return made
