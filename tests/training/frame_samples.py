# SPDX-License-Identifier: Apache-2.0
"""Recordings of a small robot, and frames of them by brute force."""

from dataclasses import dataclass, replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
from bag_samples import EPOCH, MS, SECOND, header, image, joint_state

from vla_nodes.contract.schema import ActionSource, Camera, Contract, Recorded, StateSource
from vla_training.data.bags.bag import Sample
from vla_training.data.frames.frames import Frame, FrameSource, Gap

FRONT = Camera("front", "/front", "sensor_msgs/msg/Image", "rgb8", 8, 6, 0.12)
WRIST = Camera("wrist", "/wrist", "sensor_msgs/msg/Image", "rgb8", 8, 6, 0.15, crop=(1, 2, 4, 3))
ARM = StateSource("arm", "/arm", ("a", "b"), 0.1)
BASE = StateSource("base", "/base", ("x",), 0.2, units="deg")
LEADER = Recorded("/leader", "sensor_msgs/msg/JointState", ("la", "lb"), max_age=0.15)
ACTION = ActionSource(
    "arm",
    "/command",
    "trajectory_msgs/msg/JointTrajectory",
    ("a", "b"),
    limits=(),
    grippers=(),
    recorded=LEADER,
)
ROBOT = Contract("robot", 30.0, "header", "front", 0.11, (FRONT, WRIST), (ARM, BASE), (ACTION,))
JOINTS = {"/arm": ("a", "b"), "/base": ("x",), "/leader": ("la", "lb")}


def contract(recorded=LEADER, **changes):
    """The robot with other recorded actions, or with something else changed."""
    return replace(ROBOT, actions=(replace(ACTION, recorded=recorded),), **changes)


def only_front(**changes):
    """The robot with one camera and one arm."""
    return contract(**{"cameras": (FRONT,), "states": (ARM,), **changes})


def flat(value, stamp, size=(8, 6)):
    """A picture of one colour that a number gives."""
    colour = [value % 256, value // 256 % 256, 7]
    return image(stamp, np.full((size[1], size[0], 3), colour, np.uint8))


def noise(stamp, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return image(stamp, pixels)


def camera_sample(ms, value=0, topic="/front", late=0):
    """A picture of EPOCH + ``ms``, received ``late`` ms later."""
    stamp = EPOCH + round(ms * MS)
    return Sample(stamp + round(late * MS), topic, flat(value, stamp))


def joint_sample(ms, position=(0.0, 0.0), topic="/arm", late=0):
    stamp = EPOCH + round(ms * MS)
    message = joint_state(stamp, JOINTS[topic], position)
    return Sample(stamp + round(late * MS), topic, message)


def array_sample(ms, values, topic="/command"):
    message = SimpleNamespace(data=np.array(values, float))
    return Sample(EPOCH + round(ms * MS), topic, message)


def trajectory_sample(ms, points, names=("a", "b"), topic="/command", late=0, stamped=True):
    """A JointTrajectory of (ms from start, positions)."""
    stamp = EPOCH + round(ms * MS)
    made = [
        SimpleNamespace(
            positions=np.array(positions, float),
            time_from_start=SimpleNamespace(sec=0, nanosec=round(at * MS)),
        )
        for at, positions in points
    ]
    message = SimpleNamespace(
        header=header(stamp if stamped else 0), joint_names=list(names), points=made
    )
    return Sample(stamp + round(late * MS), topic, message)


def in_order(samples):
    return sorted(samples, key=lambda sample: sample.receive)


def steady(seconds, camera=33.0, joints=10.0, leader=20.0, start=0):
    """A recording of ``only_front`` without jitter; periods in ms."""
    end = start + seconds * 1000
    samples = [camera_sample(ms, i) for i, ms in enumerate(np.arange(start, end, camera))]
    samples += [joint_sample(ms, (ms, -ms)) for ms in np.arange(start, end, joints)]
    samples += [joint_sample(ms, (2 * ms, ms), "/leader") for ms in np.arange(start, end, leader)]
    return in_order(samples)


def convert(robot, samples, fps=30, phase=0):
    """Every item that a FrameSource makes, and the source."""
    source = FrameSource(robot, fps, phase)
    return list(source.frames(iter(samples))), source


def frames_of(items):
    return [item for item in items if isinstance(item, Frame)]


def gaps_of(items):
    return [item for item in items if isinstance(item, Gap)]


def grid(start, steps, fps):
    """Time of the grid in exact fractions, rounded half up."""
    return start + int(Fraction(steps * SECOND, fps) + Fraction(1, 2))


@dataclass
class Oracle:
    """Frames by looking at all samples at once. Nothing of the code under test is in it.

    Attributes:
        robot: Raw rgb8 cameras, joint states, leaders that are joint states.
        samples: In order of receipt, without jumps of the clock.
    """

    robot: Contract
    samples: list[Sample]

    def __post_init__(self):
        self.streams = {}
        for source in (*self.robot.cameras, *self.robot.states):
            self.streams[source.name] = self.accepted(source.topic)
        for action in self.robot.actions:
            self.streams[f"actions.{action.name}"] = self.accepted(action.recorded.topic)

    def accepted(self, topic):
        """(stamp, message) that continue a topic, without those that come twice or late."""
        taken = []
        for receive, name, message in self.samples:
            if name != topic:
                continue
            stamp = message.header.stamp.sec * SECOND + message.header.stamp.nanosec
            if self.robot.timeline == "receive":
                stamp = receive
            if not taken or stamp > taken[-1][0]:
                taken.append((stamp, message))
        return taken

    def picture(self, camera, time):
        before = [(s, m) for s, m in self.streams[camera.name] if s <= time]
        if not before:
            return None
        stamp, message = before[-1]
        if time - stamp > min(camera.max_age, self.robot.max_skew) * SECOND:
            return None
        pixels = message.data.reshape(message.height, message.width, 3)
        x, y, width, height = camera.crop or (0, 0, camera.width, camera.height)
        return pixels[y : y + height, x : x + width]

    def vector(self, name, joints, units, time, max_age, max_skew):
        samples = self.streams[name]
        before = max((s for s, _ in samples if s <= time), default=None)
        after = min((s for s, _ in samples if s >= time), default=None)
        if before is None or after is None:
            return None
        if max(time - before, after - time) > max_age * SECOND:
            return None
        if min(time - before, after - time) > max_skew * SECOND:
            return None
        seconds = [(stamp - EPOCH) / SECOND for stamp, _ in samples]
        columns = [
            np.interp(
                (time - EPOCH) / SECOND, seconds, [m.position[m.name.index(j)] for _, m in samples]
            )
            for j in joints
        ]
        return np.deg2rad(columns) if units == "deg" else np.array(columns)

    def frame(self, time, following):
        """(pictures, state, action), or None where anything lacks."""
        pictures = {c.name: self.picture(c, time) for c in self.robot.cameras}
        states = [
            self.vector(s.name, s.joints, s.units, time, s.max_age, self.robot.max_skew)
            for s in self.robot.states
        ]
        actions = []
        for action in self.robot.actions:
            recorded = action.recorded
            at = following if recorded.sample == "next" else time
            name, age = f"actions.{action.name}", recorded.max_age
            actions.append(self.vector(name, recorded.joints, recorded.units, at, age, age))
        parts = [*pictures.values(), *states, *actions]
        if any(part is None for part in parts):
            return None
        return pictures, np.concatenate(states), np.concatenate(actions)

    def frames(self, fps):
        """(time, frame or None) from the first complete one to the last."""
        starts = [stamp for stamp, _ in self.streams[self.robot.reference]]
        start = next((s for s in starts if self.frame(s, grid(s, 1, fps))), None)
        if start is None:
            return []
        newest = max(stamps[-1][0] for stamps in self.streams.values() if stamps)
        made = []
        while (time := grid(start, len(made), fps)) <= newest:
            made.append((time, self.frame(time, grid(start, len(made) + 1, fps))))
        while made[-1][1] is None:
            made.pop()
        return made


def assert_same(items, expected):
    """Items of a FrameSource are those of the oracle, number for number and pixel for pixel."""
    assert [item.stamp for item in items] == [time for time, _ in expected]
    assert [item.index for item in items] == list(range(len(items)))
    for item, (_, frame) in zip(items, expected, strict=True):
        assert isinstance(item, Frame) == (frame is not None), item
        if frame is None:
            continue
        pictures, state, action = frame
        assert list(item.pictures) == list(pictures)
        for name, picture in pictures.items():
            np.testing.assert_array_equal(item.pictures[name], picture)
        np.testing.assert_allclose(item.state, state, rtol=0, atol=1e-7)
        np.testing.assert_allclose(item.action, action, rtol=0, atol=1e-7)
