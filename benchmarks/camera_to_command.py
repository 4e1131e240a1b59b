# SPDX-License-Identifier: Apache-2.0
"""From a camera's stamp to the command it causes, with three 640 x 480 cameras at 30 Hz.

Three cameras and a stand-in robot, the real policy and the real commander run in processes of
their own. The first camera's picture turns from black to white and back; the policy sends the arm
one way or the other. Measured is the time from the stamp of the first picture that turned to the
sending of the first command that follows it, less the time the policy took to decide.

No system can be faster than the message itself: the limit to compare with is the time until a
bare subscriber has such a picture, measured in the same run.

Run it with ``python benchmarks/camera_to_command.py``.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import rclpy
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory
from vla_interfaces.msg import ActionChunk, Task

from vla_nodes.bringup.graph import node_environment
from vla_nodes.contract import Contract, Qos
from vla_nodes.inference import ActionPlan, PolicyOptions
from vla_nodes.nodes import policy, qos, topics
from vla_nodes.nodes.stamps import nanoseconds, time_message
from vla_nodes.observation.codecs import fill_image
from vla_nodes.observation.observation import Observation

CAMERAS = ("one", "two", "three")
FPS = 30.0
STATE_RATE = 200.0  # Hz
TURN_PERIOD = 0.53  # s between turns of the picture; no multiple of the control period
SECONDS = 30.0
CONTRACT = {
    "robot": "bench",
    "fps": FPS,
    "timeline": "header",
    "reference": "one",
    "max_skew": 0.06,
    "cameras": {
        name: {
            "topic": f"/{name}/image",
            "type": "sensor_msgs/msg/Image",
            "encoding": "rgb8",
            "width": 640,
            "height": 480,
            "max_age": 0.2,
        }
        for name in CAMERAS
    },
    "states": {"arm": {"topic": "/joint_states", "joints": ["joint"], "max_age": 0.1}},
    "actions": {
        "arm": {
            "topic": "/command",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "joints": ["joint"],
            "limits": {
                "joints": {
                    "joint": {"position": [-10.0, 10.0], "velocity": 5.0, "acceleration": 50.0}
                }
            },
        }
    },
}


class BlackOrWhite:
    """A policy that sends the arm up when the first picture is white, else down."""

    extra_states = ()

    def __init__(
        self, contract: Contract, checkpoint: str, device: str, options: PolicyOptions
    ) -> None:
        del contract, checkpoint, device, options

    def reset(self) -> None:
        """Nothing to forget."""

    def plan_subtask(self, observation: Observation, task: str) -> str:
        """The task itself."""
        del observation
        return task

    def act(self, observation: Observation, subtask: str) -> ActionPlan:
        """Half a second of slow motion."""
        del subtask
        sign = 1.0 if observation.images["one"][0, 0, 0] > 127 else -1.0
        steps = np.arange(1, 16)[:, None] / FPS
        return ActionPlan(observation.state + 0.5 * sign * steps)


class Robot:
    """Publishes joint states and the lease, follows commands, and keeps what it hears."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("robot")
        self._states = self.node.create_publisher(JointState, "/joint_states", 10)
        self._task = self.node.create_publisher(Task, topics.TASK, qos.NEWEST)
        self.node.create_subscription(JointTrajectory, "/command", self._on_command, 100)
        self.node.create_subscription(ActionChunk, topics.CHUNK, self._on_chunk, 100)
        self._position = 0.0
        self.goal = Task.GOAL_NONE
        self.commands: list[tuple[int, float]] = []  # ns when sent, velocity
        self.chunks: list[tuple[int, float, float]] = []  # ns of the picture, direction, s computed
        self.node.create_timer(1.0 / STATE_RATE, self._publish_state)
        self.node.create_timer(0.05, self._publish_task)

    def _publish_state(self) -> None:
        message = JointState(name=["joint"], position=[self._position])
        message.header.stamp = time_message(time.time_ns())
        self._states.publish(message)

    def _publish_task(self) -> None:
        self._task.publish(Task(goal=self.goal, text="follow the picture"))

    def _on_chunk(self, message: ActionChunk) -> None:
        points = message.trajectory.points
        direction = np.sign(points[-1].positions[0] - points[0].positions[0])
        self.chunks.append((nanoseconds(message.header.stamp), direction, message.latency))

    def _on_command(self, message: JointTrajectory, info: dict) -> None:
        point = message.points[0]
        self._position = point.positions[0]
        self.commands.append((info["source_timestamp"], point.velocities[0]))

    def latencies(self) -> np.ndarray:
        """Milliseconds from each picture that turned to the command that follows it."""
        sent = np.array([at for at, _ in self.commands])
        acceleration = np.diff([velocity for _, velocity in self.commands], prepend=0.0)
        found = []
        for before, (stamp, direction, computing) in pairwise(self.chunks):
            if direction == before[1]:
                continue
            follows = np.flatnonzero((sent > stamp) & (acceleration * direction > 0.02))
            if follows.size:
                found.append((sent[follows[0]] - stamp) * 1e-6 - computing * 1e3)
        return np.array(found)


def main() -> None:
    """Start the processes, listen, and print the times beside the bare subscriber's."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "92")
    with tempfile.TemporaryDirectory() as folder:
        contract = Path(folder) / "bench.yaml"
        contract.write_text(yaml.safe_dump(CONTRACT))
        arguments = ["--ros-args", "-p", f"contract:={contract}"]
        this = [sys.executable, __file__]
        commands = [
            [sys.executable, "-m", "vla_nodes.nodes.commander", *arguments],
            [*this, "--policy", *arguments, "-p", f"rate:={2 * FPS}"],
            *([*this, "--camera", name] for name in CAMERAS),
            [*this, "--bare"],
        ]
        environment = os.environ | node_environment()
        children = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            for command in commands
        ]
        try:
            robot = listen()
        finally:
            for child in children:
                child.send_signal(signal.SIGINT)
            bare_output, _ = children[-1].communicate(timeout=10.0)
            for child in children:
                child.wait(10.0)
    *limit, rate = (float(figure) for figure in bare_output.split())
    ours = robot.latencies()
    print(f"{'ms':48}{'p50':>8}{'p95':>8}{'p99':>8}")
    print(f"{'picture at a bare subscriber':48}" + "".join(f"{x:8.1f}" for x in limit))
    figures = np.percentile(ours, (50, 95, 99))
    name = "picture to command, less the policy's time"
    print(f"{name:48}" + "".join(f"{x:8.1f}" for x in figures))
    print(
        f"{len(ours)} turns; the bare subscriber received {rate:.1f} of {FPS:g} pictures a second"
    )
    print(
        f"beyond the message itself: {figures[0] - limit[0]:.1f} ms at the median, of which half a"
    )
    print(f"control period is 5.0 ms and half a joint state's period {500 / STATE_RATE:.1f} ms")


def listen() -> Robot:
    """Bring the nodes up and follow the picture for a while."""
    rclpy.init()
    robot = Robot()
    executor = SingleThreadedExecutor()
    executor.add_node(robot.node)
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        for name in ("commander", "policy"):
            client = robot.node.create_client(ChangeState, f"{name}/change_state")
            assert client.wait_for_service(30.0)
            request = ChangeState.Request()
            request.transition.id = transition
            succeeded = False
            while not succeeded:  # A node waits until what it needs is being published.
                future = client.call_async(request)
                executor.spin_until_future_complete(future, 20.0)
                assert future.done(), f"{name} does not answer"
                succeeded = future.result().success
    robot.goal = time.time_ns()  # Only now: what is asked of an inactive robot is not begun later.
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    rclpy.try_shutdown()
    return robot


def camera(name: str) -> None:
    """Publish pictures that are white and black by turns of the clock."""
    rclpy.init()
    node = rclpy.create_node(f"camera_{name}")
    publisher = node.create_publisher(Image, f"/{name}/image", qos.NEWEST)
    message = Image()
    pictures = [np.full((480, 640, 3), level, np.uint8) for level in (0, 255)]

    def publish() -> None:
        stamp = time.time_ns()
        fill_image(message, pictures[int(stamp * 1e-9 / TURN_PERIOD) % 2])
        message.header.stamp = time_message(stamp)
        publisher.publish(message)

    node.create_timer(1.0 / FPS, publish)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def bare() -> None:
    """Print percentiles of a picture's age (ms) and the rate (Hz) where nothing else is done."""
    rclpy.init()
    node = rclpy.create_node("bare")
    received: list[tuple[int, float]] = []

    def take(message: Image) -> None:
        now = time.time_ns()
        received.append((now, (now - nanoseconds(message.header.stamp)) * 1e-6))

    node.create_subscription(Image, "/one/image", take, qos.sensor(Qos()))
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    times, ages = np.array(received[50:]).T
    rate = (len(times) - 1) / ((times[-1] - times[0]) * 1e-9)
    print(*np.percentile(ages, (50, 95, 99)), rate)


if __name__ == "__main__":
    if "--policy" in sys.argv:
        policy.BACKENDS["expert"] = f"{Path(__file__).stem}:BlackOrWhite"
        policy.main()
    elif "--camera" in sys.argv:
        camera(sys.argv[-1])
    elif "--bare" in sys.argv:
        bare()
    else:
        main()
