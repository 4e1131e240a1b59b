# SPDX-License-Identifier: Apache-2.0
"""From a camera's stamp to the command it causes, with three 640 x 480 cameras at 30 Hz.

A stand-in robot publishes images and joint states; the real policy and commander nodes run in
their processes. The first camera's picture turns from black to white and back; the policy sends
the arm one way or the other. Measured is the time from the stamp of the first picture that
turned to the first command that follows it, less the time the policy took to decide.

No system can be faster than the message itself: the limit to compare with is the time until a
bare subscriber has such a picture, measured in the same run.

Run it with ``python benchmarks/camera_to_command.py``.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
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

from vla_nodes.contract import Contract
from vla_nodes.inference import ActionPlan
from vla_nodes.nodes import policy, qos, topics
from vla_nodes.nodes.stamps import nanoseconds, time_message
from vla_nodes.observation.codecs import fill_image
from vla_nodes.observation.observation import Observation

CAMERAS = ("one", "two", "three")
FPS = 30.0
STATE_RATE = 200.0  # Hz
TURN_PERIOD = 0.5  # s between turns of the picture
TURNS = 60
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

    def __init__(self, contract: Contract, checkpoint: str, device: str) -> None:
        del contract, checkpoint, device

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
    """Publishes pictures and joint states, follows commands, and takes the times."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("robot")
        self._images = [
            self.node.create_publisher(Image, f"/{name}/image", qos.NEWEST) for name in CAMERAS
        ]
        self._messages = [Image() for _ in CAMERAS]
        self._states = self.node.create_publisher(JointState, "/joint_states", 10)
        self._task = self.node.create_publisher(Task, topics.TASK, qos.NEWEST)
        self.node.create_subscription(JointTrajectory, "/command", self._on_command, 10)
        self.node.create_subscription(ActionChunk, topics.CHUNK, self._on_chunk, 10)
        self._position = self._velocity = 0.0
        self._followed = 0
        self._white = False
        self._turned = 0
        self._turned_at = 0.0
        self._policy_time = 0.0
        self._goal = time.time_ns()
        self.latencies: list[float] = []
        self.node.create_timer(1.0 / FPS, self._publish_images)
        self.node.create_timer(1.0 / STATE_RATE, self._publish_state)
        self.node.create_timer(0.05, self._publish_task)

    def _publish_images(self) -> None:
        if time.monotonic() - self._turned_at > TURN_PERIOD and self._turned == 0:
            self._white = not self._white
            self._turned_at = time.monotonic()
            self._turned = -1
        picture = np.full((480, 640, 3), 255 if self._white else 0, np.uint8)
        stamp = time.time_ns()
        if self._turned == -1:
            self._turned = stamp
        for message, publisher in zip(self._messages, self._images, strict=True):
            fill_image(message, picture)
            message.header.stamp = time_message(stamp)
            publisher.publish(message)

    def _publish_state(self) -> None:
        message = JointState(name=["joint"], position=[self._position])
        message.header.stamp = time_message(time.time_ns())
        self._states.publish(message)

    def _publish_task(self) -> None:
        self._task.publish(Task(goal=self._goal, text="follow the picture"))

    def _on_chunk(self, message: ActionChunk) -> None:
        if self._turned > 0 and nanoseconds(message.header.stamp) >= self._turned:
            self._policy_time = self._policy_time or message.latency
            self._finish()

    def _on_command(self, message: JointTrajectory) -> None:
        point = message.points[0]
        accelerates = point.velocities[0] - self._velocity
        self._position, self._velocity = point.positions[0], point.velocities[0]
        if (
            self._turned > 0
            and not self._followed
            and accelerates * (1 if self._white else -1) > 1e-3
        ):
            self._followed = time.time_ns()
            self._finish()

    def _finish(self) -> None:
        """Note the latency when both the chunk and the command that follows it have come."""
        if self._policy_time and self._followed:
            self.latencies.append((self._followed - self._turned) * 1e-9 - self._policy_time)
            self._turned = self._followed = 0
            self._policy_time = 0.0


def main() -> None:
    """Start the nodes, take the times, print them beside the bare subscriber's."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "92")
    with tempfile.TemporaryDirectory() as folder:
        contract = Path(folder) / "bench.yaml"
        contract.write_text(yaml.safe_dump(CONTRACT))
        arguments = ["--ros-args", "-p", f"contract:={contract}"]
        children = [
            subprocess.Popen([sys.executable, "-m", "vla_nodes.nodes.commander", *arguments]),
            subprocess.Popen(
                [sys.executable, __file__, "--policy", *arguments, "-p", "rate:=60.0"]
            ),
            subprocess.Popen(
                [sys.executable, __file__, "--bare"], stdout=subprocess.PIPE, text=True
            ),
        ]
        try:
            latencies = measure()
        finally:
            for child in children:
                child.terminate()
            bare, _ = children[-1].communicate(timeout=10.0)
            for child in children:
                child.wait(10.0)
    ours = np.percentile(np.array(latencies) * 1e3, (50, 95, 99))
    limit = np.array([float(figure) for figure in bare.split()])
    print("ms                                              p50     p95     p99")
    print("picture at a bare subscriber               " + "".join(f"{x:8.1f}" for x in limit))
    print("picture to command, less the policy's time " + "".join(f"{x:8.1f}" for x in ours))
    print(f"difference at the median: {ours[0] - limit[0]:.1f} ms; half a control period is 5 ms")


def measure() -> list[float]:
    """Bring the nodes up and turn the picture ``TURNS`` times."""
    rclpy.init()
    robot = Robot()
    executor = SingleThreadedExecutor()
    executor.add_node(robot.node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    for name in ("commander", "policy"):
        client = robot.node.create_client(ChangeState, f"{name}/change_state")
        assert client.wait_for_service(30.0)
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request()
            request.transition.id = transition
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _future, done=done: done.set())
            assert done.wait(20.0), f"{name} does not answer"
            assert future.result().success, f"{name}: transition {transition} failed"
            time.sleep(1.0)
    end = time.monotonic() + TURNS * TURN_PERIOD * 4
    while len(robot.latencies) < TURNS and time.monotonic() < end:
        time.sleep(0.1)
    executor.shutdown()
    thread.join()
    rclpy.try_shutdown()
    return robot.latencies[5:]


def bare() -> None:
    """Print percentiles of a picture's age at a subscriber that does nothing else, ms."""
    rclpy.init()
    node = rclpy.create_node("bare")
    ages: list[float] = []

    def take(message: Image) -> None:
        ages.append((time.time_ns() - nanoseconds(message.header.stamp)) * 1e-6)

    node.create_subscription(Image, "/one/image", take, 1)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    print(*np.percentile(ages[50:], (50, 95, 99)))


if __name__ == "__main__":
    if "--policy" in sys.argv:
        policy.BACKENDS["expert"] = f"{Path(__file__).stem}:BlackOrWhite"
        policy.main()
    elif "--bare" in sys.argv:
        bare()
    else:
        main()
