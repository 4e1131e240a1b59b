# SPDX-License-Identifier: Apache-2.0
"""Bags as the tests want them: real files, made by rosbags, of a robot described by a contract."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from vla_nodes.contract import Contract, load_contract

EPOCH = 1_750_000_000_000_000_000  # ns; a time of day
MS = 1_000_000
SECOND = 1_000_000_000
STORE = get_typestore(Stores.ROS2_JAZZY)

CONTRACT = """\
robot: sample_arm
fps: 10
timeline: header
reference: {reference}
max_skew: 0.12
{cameras}
states:
  arm:
    topic: /joint_states
    joints: [pan, lift, grip]
    max_age: 0.15
actions:
  arm:
    topic: /arm/command
    type: trajectory_msgs/msg/JointTrajectory
    joints: [pan, lift, grip]
    limits:
      default: {{velocity: 10.0, acceleration: 100.0}}
      joints:
        pan: {{position: [-4.0, 4.0]}}
        lift: {{position: [-4.0, 4.0]}}
        grip: {{position: [-4.0, 4.0]}}
    recorded:
      topic: /leader/joint_states
      type: sensor_msgs/msg/JointState
      joints: [pan, lift, grip]
      sample: {sample}
tasks: [stack the cups, wipe the table]
"""
CAMERAS = """\
cameras:
  front:
    topic: /front/image
    type: sensor_msgs/msg/Image
    encoding: rgb8
    width: 64
    height: 48
    max_age: 0.2
  wrist:
    topic: /wrist/image/compressed
    type: sensor_msgs/msg/CompressedImage
    encoding: png
    width: 64
    height: 64
    max_age: 0.2
"""


def sample_contract(folder: Path, cameras: bool = True, sample: str = "frame") -> Contract:
    """A contract of two cameras and three joints (or joints alone), through its real loader."""
    path = folder / "sample_arm.yaml"
    path.write_text(
        CONTRACT.format(
            reference="front" if cameras else "arm",
            cameras=CAMERAS if cameras else "",
            sample=sample,
        )
    )
    return load_contract(path)


class Message(NamedTuple):
    """One message of a bag; ``value`` is an object of the typestore."""

    receive: int
    topic: str
    type: str
    value: Any


def header(stamp: int) -> Any:
    types = STORE.types
    time = types["builtin_interfaces/msg/Time"](sec=stamp // SECOND, nanosec=stamp % SECOND)
    return types["std_msgs/msg/Header"](stamp=time, frame_id="")


def joint_state(stamp: int, names: Iterable[str], position: Iterable[float]) -> Any:
    empty = np.zeros(0)
    values = np.asarray(list(position), np.float64)
    return STORE.types["sensor_msgs/msg/JointState"](
        header=header(stamp), name=list(names), position=values, velocity=empty, effort=empty
    )


def image(stamp: int, rgb: np.ndarray) -> Any:
    height, width = rgb.shape[:2]
    return STORE.types["sensor_msgs/msg/Image"](
        header=header(stamp),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(rgb).reshape(-1),
    )


def compressed(stamp: int, rgb: np.ndarray, encoding: str = "png") -> Any:
    done, data = cv2.imencode(f".{encoding}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert done
    return STORE.types["sensor_msgs/msg/CompressedImage"](
        header=header(stamp), format=encoding, data=data.reshape(-1)
    )


def string(text: str) -> Any:
    return STORE.types["std_msgs/msg/String"](data=text)


def picture(stamp: int, width: int, height: int) -> np.ndarray:
    """A smooth picture whose colour tells its stamp, (H, W, 3) uint8."""
    phase = (stamp - EPOCH) / SECOND
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin(2 * np.pi * (0.21 * phase + 0.5 * x + 0.3 * k + 0.4 * y)) for k in range(3)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def position(stamp: int) -> np.ndarray:
    """Where the three joints are at a stamp, rad: smooth, and different for each."""
    phase = (stamp - EPOCH) / SECOND
    return np.sin(phase * np.array([1.0, 1.3, 0.7]) + np.array([0.0, 1.0, 2.0]))


@dataclass
class Recording:
    """Parameters of ``sample_messages``; periods, jitter and delays in ms."""

    seconds: float = 3.0
    start: int = EPOCH
    seed: int = 0
    camera_period: float = 100.0
    joint_period: float = 10.0
    leader_period: float = 20.0
    jitter: float = 0.0
    camera_delay: float = 15.0
    joint_delay: float = 2.0
    cameras: bool = True
    keep: Callable[[str, int], bool] = lambda *_: True


def sample_messages(recording: Recording) -> list[Message]:
    """Messages of the sample arm in order of receipt; ``keep(topic, stamp)`` leaves some out."""
    rng = np.random.default_rng(recording.seed)
    names = ["grip", "pan", "lift"]  # not in the contract's order, on purpose
    order = [2, 0, 1]
    end = recording.start + round(recording.seconds * SECOND)

    def stamps(period: float) -> list[int]:
        count = int(recording.seconds * 1000 / period) + 1
        wander = rng.uniform(-recording.jitter, recording.jitter, count)
        times = recording.start + np.round(
            (np.arange(count) * period + np.where(np.arange(count) == 0, 0, wander)) * MS
        ).astype(np.int64)
        return [int(t) for t in times if t <= end]

    messages = []
    if recording.cameras:
        for stamp in stamps(recording.camera_period):
            value = image(stamp, picture(stamp, 64, 48))
            receive = stamp + round(recording.camera_delay * MS)
            messages.append(Message(receive, "/front/image", "sensor_msgs/msg/Image", value))
        for stamp in stamps(recording.camera_period):
            value = compressed(stamp, picture(stamp + SECOND, 64, 64))
            receive = stamp + round(recording.camera_delay * MS) + 1
            topic = "/wrist/image/compressed"
            messages.append(Message(receive, topic, "sensor_msgs/msg/CompressedImage", value))
    for topic, period, shift in (
        ("/joint_states", recording.joint_period, 0),
        ("/leader/joint_states", recording.leader_period, SECOND // 2),
    ):
        for stamp in stamps(period):
            value = joint_state(stamp, names, position(stamp + shift)[order])
            receive = stamp + round(recording.joint_delay * MS)
            messages.append(Message(receive, topic, "sensor_msgs/msg/JointState", value))
    kept = [m for m in messages if recording.keep(m.topic, stamp_of(m))]
    return sorted(kept, key=lambda m: (m.receive, m.topic))


def stamp_of(message: Message) -> int:
    stamp = message.value.header.stamp
    return stamp.sec * SECOND + stamp.nanosec


def write_bag(
    path: Path,
    messages: Iterable[Message],
    storage: StoragePlugin = StoragePlugin.MCAP,
    custom: dict[str, str] | None = None,
) -> Path:
    """Writes a rosbag2 folder and returns it."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for receive, topic, kind, value in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], receive, STORE.serialize_cdr(value, kind))
        for key, text in (custom or {}).items():
            writer.set_custom_data(key, text)
    return path
