# SPDX-License-Identifier: Apache-2.0
"""What recording costs, and whether anything is lost: three 640 x 480 cameras, 100 Hz of joints.

Each camera and the joints are published by a process of their own. Measured are the processor
time of the recorder's process, while it records and while it waits, and how many of the messages
that were published in between are in the bag.

Run it with ``python benchmarks/recorder_load.py``; ``--zstd`` compresses.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
import yaml
from camera_to_command import CAMERAS, CONTRACT, FPS
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image, JointState
from vla_interfaces.srv import StartRecording, StopRecording

from vla_nodes.bringup.graph import node_environment
from vla_nodes.nodes import qos
from vla_nodes.nodes.stamps import time_message
from vla_nodes.observation.codecs import fill_image

JOINT_RATE = 100.0  # Hz
SECONDS = 20.0


def main() -> None:
    """Start the processes, record, and print what it took."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "93")
    compression = "zstd" if "--zstd" in sys.argv else "none"
    with tempfile.TemporaryDirectory() as folder:
        contract = Path(folder) / "bench.yaml"
        contract.write_text(yaml.safe_dump(CONTRACT))
        options = {"contract": contract, "root": folder, "compression": compression}
        arguments = [word for k, v in options.items() for word in ("-p", f"{k}:={v}")]
        recorder = [sys.executable, "-m", "vla_nodes.nodes.recorder", "--ros-args", *arguments]
        sources = [[sys.executable, __file__, "--source", name] for name in (*CAMERAS, "joints")]
        environment = os.environ | node_environment()
        children = [subprocess.Popen(c, env=environment) for c in (recorder, *sources)]
        try:
            measure(psutil.Process(children[0].pid))
        finally:
            for child in children:
                child.send_signal(signal.SIGINT)
            for child in children:
                child.wait(10.0)
        show(next(Path(folder).glob("*/metadata.yaml")).parent)


def measure(process: psutil.Process) -> None:
    """Bring the recorder up, let it wait and then record."""
    rclpy.init()
    node = rclpy.create_node("bench")

    def call(kind: type, name: str, request: Any) -> Any:
        client = node.create_client(kind, name)
        assert client.wait_for_service(30.0)
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=30.0)
        print(future.result())
        return future.result()

    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        request = ChangeState.Request()
        request.transition.id = transition
        call(ChangeState, "recorder/change_state", request)
    time.sleep(5.0)
    print(f"waiting:   {cpu(process):5.1f} % of one core")
    call(StartRecording, "recorder/start", StartRecording.Request(task="measure"))
    print(f"recording: {cpu(process):5.1f} % of one core, {memory(process):.0f} MB resident")
    call(StopRecording, "recorder/stop", StopRecording.Request())
    node.destroy_node()
    rclpy.try_shutdown()


def cpu(process: psutil.Process) -> float:
    """Processor time over SECONDS, in percent."""
    before = process.cpu_times()
    time.sleep(SECONDS)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / SECONDS * 100.0


def memory(process: psutil.Process) -> float:
    """Resident memory in MB."""
    return process.memory_info().rss / 1e6


def show(episode: Path) -> None:
    """Count what is missing between a topic's first and last message, which are numbered."""
    numbers: dict[str, list[int]] = {}
    with AnyReader([episode]) as bag:
        for connection, _, data in bag.messages():
            message = bag.deserialize(data, connection.msgtype)
            numbers.setdefault(connection.topic, []).append(int(message.header.frame_id))
    for topic, found in sorted(numbers.items()):
        sent = found[-1] - found[0] + 1
        print(f"{topic:20}{len(found):6} recorded{sent - len(found):6} missing")


def source(name: str) -> None:
    """Publish pictures, or joint states."""
    rclpy.init()
    node = rclpy.create_node(f"source_{name}")
    kind, topic = (JointState, "/joint_states") if name == "joints" else (Image, f"/{name}/image")
    publisher = node.create_publisher(kind, topic, qos.profile(10))
    message = JointState(name=["joint"], position=[0.0]) if name == "joints" else Image()
    # Smooth, with the noise of a sensor, and never twice the same within a chunk.
    shade = np.linspace(0, 200, 640)[None, :, None] * np.linspace(0.2, 1.0, 480)[:, None, None]
    noise = np.random.default_rng(0).normal(20, 3, (10, 480, 640, 3))
    pictures = (shade + noise).astype(np.uint8)
    numbers = count()

    def publish() -> None:
        number = next(numbers)
        if name != "joints":
            fill_image(message, pictures[number % len(pictures)])
        message.header.stamp = time_message(time.time_ns())
        message.header.frame_id = str(number)
        publisher.publish(message)

    node.create_timer(1.0 / (JOINT_RATE if name == "joints" else FPS), publish)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    if "--source" in sys.argv:
        source(sys.argv[-1])
    else:
        main()
