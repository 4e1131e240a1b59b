# SPDX-License-Identifier: Apache-2.0
"""``vla-watch``: the value of a running task, live in the terminal and in Rerun.

Only listens: a robot works the same with and without it.
"""

import math
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import rclpy
import tyro
from rclpy.exceptions import InvalidNamespaceException, InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_namespace import validate_namespace
from rich.console import Console
from sensor_msgs.msg import CompressedImage, Image
from vla_interfaces.msg import ActionChunk, Subtask, Task, ValueEstimate

from vla_nodes.display.rerun_view import RerunMissingError, RerunView
from vla_nodes.display.style import value_state
from vla_nodes.display.terminal_parts import shown
from vla_nodes.display.value_history import ValueHistory
from vla_nodes.display.watch_terminal import WatchView, render_watch, watch_line
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.stamps import nanoseconds
from vla_nodes.observation.codecs import decode_compressed, decode_image
from vla_nodes.observation.errors import CodecError

UPDATE_PERIOD = 0.1  # s
SILENCE = 2.0  # s without an estimate after which the view says that it waits
PICTURE = qos.profile(1, reliable=False)  # matches any sender


@dataclass(frozen=True)
class WatchOptions:
    """Watch the value of a running task, live in the terminal.

    Attributes:
        namespace: Of the graph, as given to its launch.
        rerun: Show it in Rerun too, with the overlay picture.
        camera: Image topic to show in Rerun besides, such as /front/image; one that ends in
            /compressed is taken for compressed.
    """

    namespace: str = ""
    rerun: bool = False
    camera: str = ""


class Watch:
    """What a graph says about the value.

    Args:
        node: Carries the subscriptions.
        viewer: Takes estimates and pictures, or None.
        camera: Topic of a camera for the viewer; empty for none.
    """

    def __init__(self, node: Node, viewer: RerunView | None = None, camera: str = "") -> None:
        self._node = node
        self._viewer = viewer
        self._estimate: ValueEstimate | None = None
        self._heard = -math.inf
        self._history = ValueHistory()
        self._task, self._subtask = Task(), Subtask()
        self._energy = math.nan
        node.create_subscription(ValueEstimate, topics.VALUE, self._on_estimate, 10)
        node.create_subscription(Task, topics.TASK, self._on_task, qos.NEWEST)
        node.create_subscription(Subtask, topics.SUBTASK, self._on_subtask, qos.LATCHED)
        node.create_subscription(ActionChunk, topics.CHUNK, self._on_chunk, qos.NEWEST)
        pictures = {"overlay": topics.VALUE_OVERLAY, "camera": camera} if viewer else {}
        for name, topic in pictures.items():
            kind = CompressedImage if topic.endswith("/compressed") else Image
            if topic:
                node.create_subscription(kind, topic, partial(self._on_picture, name), PICTURE)

    def view(self) -> WatchView:
        """What is known right now."""
        estimate, silence = self._estimate, time.monotonic() - self._heard
        if estimate is None or silence > SILENCE:
            task, subtask, state = self._task.text, self._subtask.subtask, "waiting"
        else:
            task, subtask = estimate.task, estimate.subtask
            state = value_state(
                finished=estimate.finished, dropped=estimate.dropped, stalled=estimate.stalled
            )
        if estimate is None:
            return WatchView(task, subtask, energy=self._energy)
        times, values, _, _ = self._history.columns()
        return WatchView(
            task=task,
            subtask=subtask,
            state=state,
            value=estimate.value,
            subtask_value=estimate.subtask_value,
            trend=estimate.trend,
            energy=self._energy,
            quantiles=dict(zip(estimate.quantile_levels, estimate.quantiles, strict=False)),
            entropy=estimate.entropy,
            probabilities=np.array(estimate.probabilities),
            times=times,
            values=values,
            age=estimate.age + silence,
            input_ages=dict(zip(estimate.inputs, estimate.input_ages, strict=False)),
        )

    def _on_estimate(self, message: ValueEstimate) -> None:
        if self._estimate is not None and message.goal != self._estimate.goal:
            self._history.clear()
        self._estimate, self._heard = message, time.monotonic()
        stamp = nanoseconds(message.header.stamp) * 1e-9
        self._history.add(stamp, message.value)
        if self._viewer is not None:
            self._viewer.show(self.view(), stamp)

    def _on_task(self, message: Task) -> None:
        self._task = message

    def _on_subtask(self, message: Subtask) -> None:
        self._subtask = message

    def _on_chunk(self, message: ActionChunk) -> None:
        self._energy = message.energy

    def _on_picture(self, name: str, message: Any) -> None:
        assert self._viewer is not None
        try:
            if isinstance(message, CompressedImage):
                picture = decode_compressed(message)
            else:
                picture = decode_image(message, message.encoding)
        except CodecError as error:
            self._node.get_logger().warning(f"{name}: {error}", throttle_duration_sec=5.0)
            return
        self._viewer.show_picture(name, picture, nanoseconds(message.header.stamp) * 1e-9)


def watch(options: WatchOptions, ended: threading.Event, console: Console) -> None:
    """Show the value until ``ended`` is set.

    Raises:
        RerunMissingError: Rerun is wanted and not there.
        InvalidNamespaceException: No namespace has such a name.
        InvalidTopicNameException: No topic has such a name.
    """
    validate_namespace("/" + options.namespace.strip("/"))
    viewer = RerunView() if options.rerun else None
    node = rclpy.create_node("watch", namespace=options.namespace)
    executor = SingleThreadedExecutor()
    try:
        executor.add_node(node)
        watching = Watch(node, viewer, options.camera)
        with shown(console, render_watch, watch_line) as show:
            due = 0.0
            while not ended.is_set():
                executor.spin_once(timeout_sec=UPDATE_PERIOD)
                if time.monotonic() >= due:
                    due = time.monotonic() + UPDATE_PERIOD
                    show(watching.view())
    finally:
        executor.shutdown()
        node.destroy_node()


def main() -> None:
    """Watch until SIGINT or SIGTERM."""
    options = tyro.cli(WatchOptions)
    if options.camera and not options.rerun:
        sys.exit("vla-watch: --camera is shown in Rerun only; add --rerun")
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        watch(options, ended, Console())
    except (RerunMissingError, InvalidNamespaceException, InvalidTopicNameException) as error:
        sys.exit(f"vla-watch: {error}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
