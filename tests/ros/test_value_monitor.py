# SPDX-License-Identifier: Apache-2.0
"""The value monitor in the real graph: estimates, what it waits for, and what its loss does."""

import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from graph_client import GraphClient
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32
from visualization_msgs.msg import MarkerArray
from vla_interfaces.action import ExecuteTask
from vla_interfaces.msg import ValueEstimate

from vla_nodes.bringup.graph import BringupOptions, MonitorOptions, find_contract, monitor_graph
from vla_nodes.bringup.processes import GraphProcesses
from vla_nodes.contract import Contract, load_contract
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.stamps import nanoseconds, time_message

TASK = "clear the table"
# Loading PyTorch takes long, and longer where other work goes on.
PATIENT = {"supervisor": {"transition_timeout": 200.0}}

pytestmark = pytest.mark.timeout(400)


def received(graph: object, kind: type, topic: str) -> list:
    """Everything that comes on a topic of the graph, as it comes."""
    messages: list = []

    def take(message: object) -> None:
        with graph.client.changed:
            messages.append(message)
            graph.client.changed.notify_all()

    graph.client.node.create_subscription(kind, topic, take, qos.NEWEST)
    return messages


def wait_until_it_watches(graph: object) -> None:
    graph.client.wait_until_ready(200.0)
    graph.client.wait_until(
        lambda: graph.client.value("value_monitor", "state") == "active", 200.0, "it is active"
    )


def test_estimates_come_whole_while_the_arm_works_and_a_stall_ends_the_task(
    launch: Callable, value_folder: Path
) -> None:
    parameters = {"supervisor": {**PATIENT["supervisor"], "stall_timeout": 1.0}}
    with launch(BringupOptions(value_checkpoint=str(value_folder)), parameters) as graph:
        values = received(graph, ValueEstimate, topics.VALUE)
        mirror = received(graph, Float32, topics.VALUE_EXPECTATION)
        markers = received(graph, MarkerArray, topics.VALUE_MARKERS)
        overlays = received(graph, Image, topics.VALUE_OVERLAY)
        wait_until_it_watches(graph)
        waits = "no task is given: waiting"
        graph.client.wait_until(lambda: graph.client.message("value_monitor") == waits, 10.0, waits)
        assert not values
        result = graph.client.execute(TASK, 30.0)
        assert result.outcome == ExecuteTask.Result.OUTCOME_STALLED
        assert result.final_value == pytest.approx(-0.5, abs=0.2)
        assert len(values) >= 15
        assert {value.goal for value in values} != {0}
        for value in values:
            assert value.task == TASK
            assert -1.0 < value.value < 0.0
            assert np.isclose(np.sum(value.probabilities), 1.0, atol=1e-3)
            assert list(value.quantile_levels) == pytest.approx([0.1, 0.5, 0.9])
            assert list(value.quantiles) == sorted(value.quantiles)
            assert 0.0 < value.entropy < math.log(201)
            assert set(value.inputs) == {"front", "wrist"}
            assert all(0.0 <= age < 1.0 for age in value.input_ages)
            assert math.isnan(value.subtask_value) == (not value.subtask)
            assert not value.finished
        assert values[-1].subtask
        stamps = [nanoseconds(value.header.stamp) for value in values]
        assert (np.diff(stamps) > 0).all()
        stalled = [value.stalled for value in values]
        began = (stamps[stalled.index(True)] - stamps[0]) * 1e-9
        assert began >= 3.0 - 1e-3
        assert mirror[-1].data == pytest.approx(values[-1].value)
        assert {marker.ns for marker in markers[-1].markers} >= {"bar", "label", "history"}
        assert overlays[-1].encoding == "rgb8"
        assert float(graph.client.value("value_monitor", "model_p50_ms")) > 0.0
        assert graph.client.feedback[-1].value == pytest.approx(values[-1].value, abs=0.1)
        assert math.isfinite(graph.client.feedback[-1].trend)


def test_a_monitor_that_is_killed_is_named_and_missed_by_nobody(
    launch: Callable, value_folder: Path
) -> None:
    parameters = {
        "supervisor": {**PATIENT["supervisor"], "stall_timeout": 1000.0, "value_timeout": 1.0}
    }
    with launch(BringupOptions(value_checkpoint=str(value_folder)), parameters) as graph:
        values = received(graph, ValueEstimate, topics.VALUE)
        wait_until_it_watches(graph)
        ended = graph.client.start(TASK, 600.0)
        feedback = graph.client.feedback
        graph.client.wait_until(
            lambda: feedback and math.isfinite(feedback[-1].value), 60.0, "the value is told"
        )
        graph.client.wait_until_moving()
        os.kill(graph.processes.pid("value_monitor"), signal.SIGKILL)
        graph.client.wait_until(
            lambda: "value_monitor" in graph.client.message("supervisor"), 10.0, "it is named"
        )
        graph.client.wait_until(
            lambda: math.isnan(feedback[-1].value), 10.0, "the last value is not told for ever"
        )
        assert math.isnan(feedback[-1].trend)
        graph.client.wait_until_moving()
        count = len(values)
        graph.client.wait_until(lambda: len(values) > count, 200.0, "it watches again")
        assert not ended.done()
        graph.client.check_limits(graph.contract)


def test_a_folder_that_is_no_checkpoint_is_named_and_the_robot_is_ready_without(
    launch: Callable, tmp_path: Path
) -> None:
    with launch(BringupOptions(value_checkpoint=str(tmp_path / "nowhere"))) as graph:
        words = f"checkpoint: there is no folder '{tmp_path}/nowhere'"
        graph.client.wait_until(
            lambda: words in graph.client.message("value_monitor"), 200.0, words
        )
        graph.client.wait_until_ready(200.0)
        graph.client.wait_until(
            lambda: "value_monitor" in graph.client.message("supervisor"), 10.0, "it is named"
        )


class Cameras:
    """Publishes the pictures of both cameras, JPEG, by the system's clock, on demand."""

    def __init__(self, client: GraphClient, contract: Contract) -> None:
        self.publishers = [
            client.node.create_publisher(CompressedImage, camera.topic, qos.SHARED)
            for camera in contract.cameras
        ]
        self.random = np.random.default_rng(0)

    def show(self, seconds: float, frozen: bool = False, broken: bool = False) -> None:
        """At 20 Hz; ``frozen`` and ``broken`` are of the first camera."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stamp = time_message(time.time_ns())
            for camera, publisher in enumerate(self.publishers):
                picture = self.random.integers(0, 255, (96, 96, 3), np.uint8)
                if frozen and not camera:
                    picture[:] = 90
                data = cv2.imencode(".jpg", picture)[1].tobytes()
                message = CompressedImage(format="jpeg")
                message.data = data[: len(data) // 2] if broken and not camera else data
                message.header.stamp = stamp
                publisher.publish(message)
            time.sleep(0.05)


def test_alone_it_brings_itself_up_and_names_what_is_wrong_with_a_camera(
    domain: int, value_folder: Path, tmp_path: Path
) -> None:
    document = yaml.safe_load(find_contract("sim_arm").read_text())
    for camera in document["cameras"].values():
        camera |= {"type": "sensor_msgs/msg/CompressedImage", "encoding": "jpeg", "max_age": 1.0}
    file = tmp_path / "cameras.yaml"
    file.write_text(yaml.safe_dump(document))
    contract = load_contract(file)
    options = MonitorOptions(str(file), str(value_folder), task="play")
    client = GraphClient(domain, contract.actions[0].topic, contract.action_names)

    def says(words: str) -> bool:
        return words in client.message("value_monitor")

    with client, GraphProcesses(monitor_graph(options), log_folder=tmp_path):
        values: list = []
        client.node.create_subscription(ValueEstimate, topics.VALUE, values.append, qos.NEWEST)
        silent = "nobody publishes /front/image"
        client.wait_until(lambda: says(silent), 200.0, silent)
        cameras = Cameras(client, contract)
        cameras.show(4.0)
        assert len(values) >= 5
        assert {(value.goal, value.task) for value in values} == {(0, "play")}
        client.wait_until(lambda: says("not trained on 'play'"), 5.0, "the text is warned of")
        cameras.show(1.0, broken=True)
        count = len(values)
        cameras.show(1.0, broken=True)
        assert len(values) <= count + 1
        client.wait_until(lambda: says("front is corrupt"), 5.0, "the damage is named")
        assert int(client.value("value_monitor", "front_faults")) > 0
        cameras.show(5.0, frozen=True)
        assert len(values) > count + 5
        client.wait_until(lambda: says("front shows the same picture"), 5.0, "it is flagged")
        client.wait_until(lambda: says("is stale"), 10.0, "silence is named")
        assert client.value("value_monitor", "state") == "active"
