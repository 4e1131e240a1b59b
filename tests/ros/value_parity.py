# SPDX-License-Identifier: Apache-2.0
"""What the value monitor says of a recording that is played to it, beside a dataset's labels.

    python tests/ros/value_parity.py CHECKPOINT CONTRACT DATASET BAG...

prints how far the two are apart. The dataset was made of these bags, and has the column ``value``
of this checkpoint.
"""

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from graph_client import GraphClient
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from vla_interfaces.msg import ValueEstimate

from vla_nodes.bringup.graph import MonitorOptions, find_contract, monitor_graph
from vla_nodes.bringup.processes import GraphProcesses
from vla_nodes.contract import Contract, load_contract
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.stamps import nanoseconds, time_message

LOADING = 300.0  # s for PyTorch to load where other work goes on
ANSWER = 5.0  # s for an estimate
PLAYED = qos.profile(20, latched=True)  # serves subscribers of any kind


@dataclass(frozen=True)
class Heard:
    """An estimate of the monitor: its value, and the stamp in ns of each camera's picture."""

    value: float
    shown: Mapping[str, int]


def column(dataset: Path, name: str) -> np.ndarray:
    """A number of each frame."""
    files = sorted((dataset / "data").glob("*/*.parquet"))
    return np.concatenate([pq.read_table(file)[name].to_numpy() for file in files])


def replayed(
    bag: Path, contract: Path, checkpoint: Path, task: str, domain: int, logs: Path
) -> dict[int, Heard]:
    """What a value monitor, all alone, says of a bag: by the estimates' stamps, ns."""
    robot = load_contract(contract)
    options = MonitorOptions(str(contract), str(checkpoint), task, use_sim_time=True)
    # As often as there are pictures, so that every frame of the dataset is looked at.
    parameters = {"/**": {"ros__parameters": {"rate": 100.0, "display_rate": 0.0}}}
    file = logs / "monitor.yaml"
    file.write_text(yaml.safe_dump(parameters))
    client = GraphClient(domain, "/nobody", ())
    heard: dict[int, Heard] = {}

    def take(message: Any) -> None:
        stamp = nanoseconds(message.header.stamp)
        ages = dict(zip(message.inputs, message.input_ages, strict=True))
        newest = ages[robot.reference]
        shown = {name: stamp - round((age - newest) * 1e3) * 10**6 for name, age in ages.items()}
        with client.changed:
            heard[stamp] = Heard(message.value, shown)
            client.changed.notify_all()

    with client, GraphProcesses(monitor_graph(options), "", str(file), logs):
        client.node.create_subscription(ValueEstimate, topics.VALUE, take, qos.SHARED)
        client.wait_until(
            lambda: client.value("value_monitor", "state") == "active", LOADING, "it is active"
        )
        _play(bag, robot, client, heard)
    return heard


def _play(bag: Path, robot: Contract, client: GraphClient, heard: Mapping[int, Heard]) -> None:
    """Publishes a bag's messages in the order and at the pace of their receipt.

    Before each picture of the reference, time stands still until the one before it is estimated:
    on a busy machine this takes longer, with the same result. What the monitor publishes itself
    is not played.
    """
    reference = next(c.topic for c in robot.cameras if c.name == robot.reference)
    clock = client.node.create_publisher(Clock, "/clock", qos.SHARED)
    with Reader(bag) as reader:
        publishers = {
            c.topic: client.node.create_publisher(_message_class(c.msgtype), c.topic, PLAYED)
            for c in reader.connections
            if not c.topic.startswith(f"/{topics.VALUE}")
        }
        heeded = [clock, *(publishers[camera.topic] for camera in robot.cameras)]
        client.wait_until(
            lambda: all(publisher.get_subscription_count() for publisher in heeded),
            LOADING,
            "the monitor listens",
        )
        before, asked = next(reader.messages())[1], 0
        for connection, receive, data in reader.messages():
            if connection.topic not in publishers:
                continue
            publisher = publishers[connection.topic]
            if connection.topic == reference:
                _wait(client, heard, asked)
                message = deserialize_message(bytes(data), publisher.msg_type)
                asked = nanoseconds(message.header.stamp)
            time.sleep((receive - before) * 1e-9)
            before = receive
            clock.publish(Clock(clock=time_message(receive)))
            publisher.publish(bytes(data))
        _wait(client, heard, asked)


def _wait(client: GraphClient, heard: Mapping[int, Heard], stamp: int) -> None:
    """For the estimate of a stamp; there may be none to come."""
    end = time.monotonic() + ANSWER
    with client.changed:
        while stamp and stamp not in heard and time.monotonic() < end:
            client.changed.wait(0.2)


def _message_class(name: str) -> type:
    package, _, kind = name.split("/")
    return getattr(import_module(f"{package}.msg"), kind)


def main(arguments: Sequence[str]) -> None:
    checkpoint, contract, dataset, *bags = map(Path, arguments)
    domain = int(os.environ.setdefault("ROS_DOMAIN_ID", "77"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    values = column(dataset, "value").tolist()
    labels = dict(zip(column(dataset, "bag_time_ns").tolist(), values, strict=True))
    for bag in bags:
        with tempfile.TemporaryDirectory() as logs:
            task = yaml.safe_load((bag / "metadata.yaml").read_text())
            task = task["rosbag2_bagfile_information"]["custom_data"]["task"]
            heard = replayed(
                bag, find_contract(str(contract)), checkpoint, task, domain, Path(logs)
            )
        _print(bag, heard, labels)


def _print(bag: Path, heard: Mapping[int, Heard], labels: Mapping[int, float]) -> None:
    both = [stamp for stamp in heard if stamp in labels]
    away = np.abs([heard[stamp].value - labels[stamp] for stamp in both])
    together = np.array([set(heard[stamp].shown.values()) == {stamp} for stamp in both], bool)
    span = np.ptp([labels[stamp] for stamp in both])
    print(f"{bag.name}: {len(both)} frames, labels from one end to the other {span:.3f}")
    for name, rows in (("pictures of one moment", together), ("of several", ~together)):
        if rows.any():
            print(
                f"  {name}: {rows.sum()}, mean {away[rows].mean():.5f}, max {away[rows].max():.5f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
