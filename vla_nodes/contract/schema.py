# SPDX-License-Identifier: Apache-2.0
"""What a contract holds: streams in, actions out, limits between.

Plain frozen dataclasses without ROS, numpy or files. ``loader.load_contract`` makes
them from YAML and is where every rule about them is checked; code that holds a
``Contract`` may rely on those rules.
"""

from dataclasses import dataclass
from typing import Literal

Timeline = Literal["header", "receive"]
JointField = Literal["position", "velocity", "effort"]
Units = Literal["rad", "deg", "m", "normalized"]


@dataclass(frozen=True)
class Qos:
    """Quality of service of a subscription (keep last, volatile)."""

    reliability: Literal["best_effort", "reliable"] = "best_effort"
    depth: int = 5


@dataclass(frozen=True)
class Camera:
    """A stream of images.

    Attributes:
        name: Key of the image in an observation.
        topic: Absolute ROS topic.
        type: ``sensor_msgs/msg/Image`` or ``sensor_msgs/msg/CompressedImage``; of a bag also
            ``foxglove_msgs/msg/CompressedVideo`` or
            ``ffmpeg_image_transport_msgs/msg/FFMPEGPacket``, which the nodes do not take.
        encoding: ROS image encoding for ``Image``; ``jpeg`` or ``png`` for ``CompressedImage``;
            ``h264`` or ``hevc`` for the packets of a video.
        width: Pixels before cropping; a frame of another size is refused.
        height: Pixels before cropping.
        crop: (x, y, width, height) in pixels, or None for the whole frame.
        max_age: Seconds that the newest image may lag the observation's stamp.
        qos: Of the subscription.
    """

    name: str
    topic: str
    type: str
    encoding: str
    width: int
    height: int
    max_age: float
    crop: tuple[int, int, int, int] | None = None
    qos: Qos = Qos()

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the image after cropping."""
        return (self.crop[3], self.crop[2]) if self.crop else (self.height, self.width)


@dataclass(frozen=True)
class StateSource:
    """A stream of joint states, ``sensor_msgs/msg/JointState``.

    Attributes:
        name: Key of the stream.
        topic: Absolute ROS topic.
        joints: Joint names as the message spells them, in the order the vector wants them.
        fields: Message fields that are read; the vector is field-major (all positions first).
        units: Of the message. Degrees are turned into radians on reading; the rest pass as is.
        max_age: Seconds that the newest sample may lag the observation's stamp.
        prefix: Put before each joint's name in the vector, to tell two arms apart.
        qos: Of the subscription.
    """

    name: str
    topic: str
    joints: tuple[str, ...]
    max_age: float
    fields: tuple[JointField, ...] = ("position",)
    units: Units = "rad"
    prefix: str = ""
    qos: Qos = Qos()

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Names of this source's vector elements, ``{prefix}{joint}.{field}``."""
        return tuple(
            f"{self.prefix}{joint}.{field}" for field in self.fields for joint in self.joints
        )


@dataclass(frozen=True)
class JointLimits:
    """What the commander holds a joint to; rad or m, per second, per second squared."""

    lower: float
    upper: float
    velocity: float
    acceleration: float


@dataclass(frozen=True)
class Gripper:
    """A joint that switches between two positions instead of following its target.

    A target above ``threshold + hysteresis`` selects ``high``, below ``threshold - hysteresis``
    selects ``low``, between them the last choice stays. All in the joint's unit.
    """

    low: float
    high: float
    threshold: float
    hysteresis: float


@dataclass(frozen=True)
class Recorded:
    """Where a bag holds the actions that were taken (a leader arm or the command itself).

    Attributes:
        topic: Absolute ROS topic.
        type: ``sensor_msgs/msg/JointState``, ``trajectory_msgs/msg/JointTrajectory`` or
            ``std_msgs/msg/Float64MultiArray``.
        joints: Joint names as that topic spells them, in the order of the action's joints.
        sample: Take the value at the frame's own time or at the next frame's.
        units: Of the message, as in StateSource.
        max_age: Seconds that the sample before a frame, and for a ``JointState`` also the one
            after it, may lie from the frame.
    """

    topic: str
    type: str
    joints: tuple[str, ...]
    sample: Literal["frame", "next"] = "frame"
    units: Units = "rad"
    max_age: float = 0.5


@dataclass(frozen=True)
class ActionSource:
    """A controller that takes commands.

    Attributes:
        name: Key of the source.
        topic: Absolute ROS topic.
        type: ``trajectory_msgs/msg/JointTrajectory`` or ``std_msgs/msg/Float64MultiArray``.
        joints: Joint names as the controller spells them, in the order of the vector.
        limits: One per joint.
        grippers: One per joint; None where the joint follows its target.
        units: Of the message; commands are turned from radians into degrees where it says so.
        prefix: As in StateSource; prefixed names find the measured position in the states.
        recorded: For conversion of bags; None where the command topic itself is read.
    """

    name: str
    topic: str
    type: str
    joints: tuple[str, ...]
    limits: tuple[JointLimits, ...]
    grippers: tuple[Gripper | None, ...]
    units: Units = "rad"
    prefix: str = ""
    recorded: Recorded | None = None

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Names of this source's vector elements, ``{prefix}{joint}``."""
        return tuple(f"{self.prefix}{joint}" for joint in self.joints)


@dataclass(frozen=True)
class Checks:
    """From where on recorded data is called faulty.

    Attributes:
        min_joint_rate: Hz of every state source; None for 0.9 times the contract's fps.
        max_camera_gap: Seconds between two pictures of a camera; None for 2.5 frames.
        max_skew: Seconds between an input and the reference; None for the contract's.
        max_delay: Seconds from a sample's stamp to its receipt, in the median.
        max_joint_jump: Times the joint's velocity limit, between two samples.
        frozen_frames: Pictures in a row that are the same.
        duplicate_share: Of the pictures that are the same as the one before.
        black_level: Mean brightness (0 to 255) up to which a picture is black.
        black_share: Of the pictures that are black.
        min_psnr: dB of a dataset's pictures against those of the bag.
    """

    min_joint_rate: float | None = None
    max_camera_gap: float | None = None
    max_skew: float | None = None
    max_delay: float = 0.25
    max_joint_jump: float = 3.0
    frozen_frames: int = 15
    duplicate_share: float = 0.05
    black_level: float = 8.0
    black_share: float = 0.01
    min_psnr: float = 28.0


@dataclass(frozen=True)
class Contract:
    """One robot, as every part of the stack sees it.

    Attributes:
        robot: Short name.
        fps: Rate of actions in a chunk and of frames in a dataset, Hz.
        timeline: Whether samples are ordered by header stamp or by time of receipt.
        reference: Name of the camera or state source whose stamps date the observations.
        max_skew: Seconds that the stamp of any input may lie from the observation's stamp.
        cameras: In the order of the policy's views; may be empty.
        states: Concatenated in this order into the state vector.
        actions: Concatenated in this order into the action vector.
        tasks: Tasks the robot is known to do; empty for any.
        subtasks: Subtasks the planner may choose from; empty for free text.
        checks: Bounds for recorded data, which the nodes do not use.
    """

    robot: str
    fps: float
    timeline: Timeline
    reference: str
    max_skew: float
    cameras: tuple[Camera, ...]
    states: tuple[StateSource, ...]
    actions: tuple[ActionSource, ...]
    tasks: tuple[str, ...] = ()
    subtasks: tuple[str, ...] = ()
    checks: Checks = Checks()

    @property
    def dt(self) -> float:
        """Seconds between the actions of a chunk."""
        return 1.0 / self.fps

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state vector's elements."""
        return tuple(name for source in self.states for name in source.vector_names)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action vector's elements, unique."""
        return tuple(name for source in self.actions for name in source.vector_names)

    @property
    def limits(self) -> tuple[JointLimits, ...]:
        """One per element of the action vector."""
        return tuple(limit for source in self.actions for limit in source.limits)

    @property
    def grippers(self) -> tuple[Gripper | None, ...]:
        """One per element of the action vector."""
        return tuple(gripper for source in self.actions for gripper in source.grippers)

    @property
    def measured_index(self) -> tuple[int, ...]:
        """For each action element, the state element that measures its position."""
        index = {name: i for i, name in enumerate(self.state_names)}
        return tuple(index[f"{name}.position"] for name in self.action_names)
