# SPDX-License-Identifier: Apache-2.0
"""``vla-watch`` shows what the topics say, to people and to a viewer."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.exceptions import InvalidNamespaceException
from rclpy.executors import SingleThreadedExecutor
from rich.console import Console
from sensor_msgs.msg import CompressedImage, Image
from vla_interfaces.msg import ActionChunk, Subtask, Task, ValueEstimate

from vla_nodes.nodes import qos, topics
from vla_nodes.nodes import watch as watch_module
from vla_nodes.nodes.stamps import time_message
from vla_nodes.nodes.watch import Watch, WatchOptions
from vla_nodes.observation.codecs import fill_image

SECOND = 1_000_000_000
PROFILES = {
    Task: (topics.TASK, qos.NEWEST),
    Subtask: (topics.SUBTASK, qos.LATCHED),
    ActionChunk: (topics.CHUNK, qos.NEWEST),
    ValueEstimate: (topics.VALUE, qos.NEWEST),
    Image: (topics.VALUE_OVERLAY, qos.NEWEST),
    CompressedImage: ("/wrist/compressed", qos.profile(1, reliable=False)),
}


class Viewer:
    """Keeps what a viewer would show."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, Any]] = []
        self.pictures: dict[str, tuple[float, np.ndarray]] = {}

    def show(self, view: Any, stamp: float) -> None:
        self.shown.append((stamp, view))

    def show_picture(self, name: str, picture: np.ndarray, stamp: float) -> None:
        self.pictures[name] = (stamp, picture)


class Graph:
    """A ``Watch`` and what speaks to it, in one process."""

    def __init__(self, viewer: Viewer | None, camera: str) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("speaker", context=self.context)
        self.watcher = rclpy.create_node("watch", context=self.context)
        self.watch = Watch(self.watcher, viewer, camera)
        self.executor = SingleThreadedExecutor(context=self.context)
        for node in (self.node, self.watcher):
            self.executor.add_node(node)
        self.publishers = {
            kind: self.node.create_publisher(kind, topic, profile)
            for kind, (topic, profile) in PROFILES.items()
        }

    def say(self, message: Any, heard: Callable[[], bool]) -> None:
        """Publish until it has been heard."""
        end = time.monotonic() + 60.0
        while not heard():
            assert time.monotonic() < end, f"{type(message).__name__} was not heard"
            self.publishers[type(message)].publish(message)
            self.executor.spin_once(timeout_sec=0.05)
            time.sleep(0.02)  # Whoever else listens is not to be flooded.

    def close(self) -> None:
        self.executor.shutdown()
        for node in (self.node, self.watcher):
            node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def make_graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Graph]]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    graphs: list[Graph] = []

    def make(viewer: Viewer | None = None, camera: str = "") -> Graph:
        graphs.append(Graph(viewer, camera))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()


def estimate(stamp: float, value: float, **fields: Any) -> ValueEstimate:
    message = ValueEstimate(
        goal=1, task="clear the table", subtask="grasp", value=value, age=0.25, **fields
    )
    message.header.stamp = time_message(int(stamp * SECOND))
    return message


def test_an_estimate_is_shown_with_all_it_says(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph()
    message = estimate(
        *(7.0, -0.5),
        subtask_value=-0.25,
        quantile_levels=[0.25, 0.75],
        quantiles=[-0.625, -0.375],
        probabilities=[0.5, 0.5],
        trend=0.125,
        stalled=True,
        inputs=["front"],
        input_ages=[0.0625],
    )
    graph.say(message, lambda: graph.watch.view().value == -0.5)
    graph.say(ActionChunk(energy=0.75), lambda: graph.watch.view().energy == 0.75)
    view = graph.watch.view()
    assert (view.task, view.subtask, view.state) == ("clear the table", "grasp", "stalled")
    assert (view.subtask_value, view.trend) == (-0.25, 0.125)
    assert view.quantiles == {0.25: -0.625, 0.75: -0.375}
    assert view.probabilities.tolist() == [0.5, 0.5]
    assert view.input_ages == {"front": 0.0625}
    assert (view.times.tolist(), view.values.tolist()) == ([7.0], [-0.5])
    assert view.age > 0.25, "it goes on ageing after it was sent"


def test_another_goal_begins_with_an_empty_history(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph()
    for stamp, value in ((1.0, -0.75), (2.0, -0.5)):
        message = estimate(stamp, value)
        graph.say(message, lambda value=value: graph.watch.view().value == value)
    assert graph.watch.view().values.tolist() == [-0.75, -0.5]
    other = estimate(3.0, -1.0)
    other.goal = 2
    graph.say(other, lambda: graph.watch.view().value == -1.0)
    assert graph.watch.view().times.tolist() == [3.0]


def test_without_estimates_it_waits_and_shows_the_task(
    make_graph: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make_graph()
    assert graph.watch.view().state == "waiting"
    graph.say(Task(text="sort"), lambda: graph.watch.view().task == "sort")
    graph.say(Subtask(subtask="lift"), lambda: graph.watch.view().subtask == "lift")
    graph.say(estimate(1.0, -0.5), lambda: graph.watch.view().state == "running")
    assert graph.watch.view().task == "clear the table"
    monkeypatch.setattr(watch_module, "SILENCE", 0.0)
    view = graph.watch.view()
    assert (view.state, view.task, view.subtask) == ("waiting", "sort", "lift")
    assert view.value == -0.5


def test_a_viewer_gets_estimates_overlay_and_camera(make_graph: Callable[..., Graph]) -> None:
    viewer = Viewer()
    graph = make_graph(viewer, "/wrist/compressed")
    graph.say(estimate(7.0, -0.5), lambda: bool(viewer.shown))
    stamp, view = viewer.shown[0]
    assert (stamp, view.value) == (7.0, -0.5)

    picture = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    overlay = Image()
    fill_image(overlay, picture)
    overlay.header.stamp = time_message(3 * SECOND)
    graph.say(overlay, lambda: "overlay" in viewer.pictures)
    png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    camera = CompressedImage(format="png", data=png)
    graph.say(camera, lambda: "camera" in viewer.pictures)
    assert viewer.pictures["overlay"][0] == 3.0
    for _, shown in viewer.pictures.values():
        assert (shown == picture).all()


def test_a_damaged_picture_is_named_and_harms_nothing(make_graph: Callable[..., Graph]) -> None:
    viewer = Viewer()
    graph = make_graph(viewer, "/wrist/compressed")
    broken = CompressedImage(format="png", data=b"no picture")
    end = time.monotonic() + 1.0
    graph.say(broken, lambda: time.monotonic() > end)
    graph.say(estimate(7.0, -0.5), lambda: bool(viewer.shown))
    assert viewer.pictures == {}


def test_it_prints_lines_and_ends_cleanly_on_ctrl_c(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph()
    process = subprocess.Popen(
        [sys.executable, "-m", "vla_nodes.nodes.watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    try:
        message = estimate(7.5, -0.25)
        graph.say(message, lambda: any("running | value -0.25" in line for line in lines))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        reader.join(20)
    assert not any("Traceback" in line for line in lines)


def test_a_missing_viewer_ends_it_with_one_error() -> None:
    code = "import sys; sys.modules['rerun'] = None; from vla_nodes.nodes.watch import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--rerun"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("vla-watch: Rerun cannot be imported")
    assert done.stderr.count("\n") == 1


def test_a_camera_without_a_viewer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vla-watch", "--camera", "/front/image"])
    with pytest.raises(SystemExit, match="--camera is shown in Rerun only; add --rerun"):
        watch_module.main()


def test_an_impossible_namespace_is_refused() -> None:
    with pytest.raises(InvalidNamespaceException, match="no name"):
        watch_module.watch(WatchOptions(namespace="no name"), threading.Event(), Console())
