# SPDX-License-Identifier: Apache-2.0
"""Follows a run from outside: what a person may want to see of it, live and afterwards."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory
from vla_interfaces.msg import ActionChunk, Subtask, ValueEstimate

from vla_nodes.contract import Contract
from vla_nodes.display.joint_plot import JointRun
from vla_nodes.display.overlay import RunPicture, compose
from vla_nodes.display.terminal import Fault, Level, RunView
from vla_nodes.display.video import VideoWriter
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.diagnostics import RateMeter
from vla_nodes.nodes.stamps import nanoseconds
from vla_nodes.observation.codecs import decode_camera

VALUES_SHOWN = 200  # newest values in the overlay's curve
_LEVELS: dict[int, Level] = {1: "warn", 2: "error", 3: "stale"}


class RunRecorder:
    """Collects a run from the topics of a graph with one action source and one state source.

    Callbacks run in the executor's thread; the other methods may be called from any thread.

    Args:
        node: Carries the subscriptions.
        contract: The robot's.
        video: Takes a frame for each overview picture between ``begin`` and ``end``.
        units: Of each joint, for the plot.
        time_limit: Of the task, seconds.
    """

    def __init__(
        self,
        node: Node,
        contract: Contract,
        video: VideoWriter,
        units: Sequence[str],
        time_limit: float,
    ) -> None:
        self._node = node
        self._contract = contract
        self._video = video
        self._units = units
        self._time_limit = time_limit
        self._lock = threading.Lock()
        self._task, self._state = "", "idle"
        self._began: int | None = None
        self._stamp = 0
        self._subtasks: list[tuple[int, str]] = []
        self._value, self._trend, self._energy = math.nan, math.nan, math.nan
        self._values: deque[float] = deque(maxlen=VALUES_SHOWN)
        self._pictures: dict[str, np.ndarray] = {}
        self._commanded: list[tuple[int, Sequence[float]]] = []
        self._measured: list[tuple[int, Sequence[float]]] = []
        self._latencies: deque[float] = deque(maxlen=100)
        self._statuses: dict[str, DiagnosticStatus] = {}
        self._rates: dict[str, RateMeter] = {}
        self._seen: dict[str, int] = {}
        self._subscribe()

    def _subscribe(self) -> None:
        node, contract = self._node, self._contract
        action, state = contract.actions[0], contract.states[0]
        node.create_subscription(JointTrajectory, action.topic, self._on_command, 50)
        node.create_subscription(JointState, state.topic, self._on_state, 50)
        for camera in contract.cameras:
            on_image = partial(self._on_image, camera)
            node.create_subscription(Image, camera.topic, on_image, qos.sensor(camera.qos))
        node.create_subscription(Image, "/overview/image", self._on_overview, 2)
        node.create_subscription(ActionChunk, topics.CHUNK, self._on_chunk, 10)
        node.create_subscription(Subtask, topics.SUBTASK, self._on_subtask, qos.LATCHED)
        node.create_subscription(ValueEstimate, topics.VALUE, self._on_value, 10)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    # --- the run ----------------------------------------------------------------------------

    def begin(self, task: str) -> None:
        """The task starts: record from here on."""
        with self._lock:
            self._task, self._state, self._began = task, "running", self._stamp
            self._commanded.clear()
            self._measured.clear()

    def end(self, state: str) -> None:
        """The task has ended, with ``success`` or another word."""
        with self._lock:
            self._state = state

    def is_ready(self) -> bool:
        """Whether the supervisor would start a task."""
        with self._lock:
            return self._figure("supervisor", "ready") == "True"

    # --- what there is to see ---------------------------------------------------------------

    def view(self) -> RunView:
        """The run right now, for the terminal."""
        now = time.monotonic_ns()
        with self._lock:
            latencies = np.array(self._latencies)
            p50, p99 = np.percentile(latencies, (50, 99)) if latencies.size else (math.nan,) * 2
            errors = {}
            if self._commanded and self._measured:
                errors = dict(
                    zip(
                        self._contract.action_names,
                        np.subtract(self._commanded[-1][1], self._measured[-1][1]).tolist(),
                        strict=True,
                    )
                )
            return RunView(
                task=self._task,
                subtask=self._subtasks[-1][1] if self._subtasks else "",
                state=self._state,
                elapsed=self._elapsed(),
                limit=self._time_limit,
                value=self._value,
                trend=self._trend,
                energy=self._energy,
                joint_errors=errors,
                latency_p50=float(p50),
                latency_p99=float(p99),
                chunk_rate=self._hz("chunk", now),
                command_rate=self._hz("command", now),
                rates={name: self._hz(name, now) for name in self._streams()},
                ages={n: (now - self._seen[n]) * 1e-9 for n in self._streams() if n in self._seen},
                nodes={name.lstrip("/"): self._figure(name, "state") for name in self._statuses},
                faults=self._faults(),
            )

    def joint_run(self) -> JointRun:
        """Commands and measurements since ``begin``, for the plot."""
        limits = self._contract.limits
        with self._lock:
            began = self._began or 0
            commands, measured = (
                (np.array([(t - began) * 1e-9 for t, _ in rows]), np.array([v for _, v in rows]))
                for rows in (self._commanded, self._measured)
            )
            return JointRun(
                joints=self._contract.action_names,
                units=self._units,
                command_times=commands[0],
                commanded=commands[1],
                measured_times=measured[0],
                measured=measured[1],
                lower=np.array([limit.lower for limit in limits]),
                upper=np.array([limit.upper for limit in limits]),
                subtasks=[((t - began) * 1e-9, text) for t, text in self._subtasks if t >= began],
                title=f"{self._task} ({self._state})",
            )

    def _streams(self) -> list[str]:
        cameras, states = self._contract.cameras, self._contract.states
        return [*(camera.name for camera in cameras), *(state.name for state in states)]

    def _elapsed(self) -> float:
        return math.nan if self._began is None else (self._stamp - self._began) * 1e-9

    def _faults(self) -> list[Fault]:
        return [
            Fault(name.lstrip("/"), status.message, _LEVELS[level])
            for name, status in self._statuses.items()
            if (level := int.from_bytes(status.level, "little")) in _LEVELS
        ]

    def _figure(self, node: str, key: str) -> str:
        status = self._statuses.get(f"/{node.lstrip('/')}")
        return next((v.value for v in status.values if v.key == key), "") if status else ""

    def _hz(self, name: str, now: int) -> float:
        return self._rates[name].hz(now) if name in self._rates else math.nan

    # --- subscriptions ------------------------------------------------------------------------

    def _heard(self, name: str) -> None:
        now = time.monotonic_ns()
        self._seen[name] = now
        self._rates.setdefault(name, RateMeter()).event(now)

    def _on_command(self, message: JointTrajectory) -> None:
        order = [message.joint_names.index(name) for name in self._contract.actions[0].joints]
        positions = [message.points[0].positions[i] for i in order]
        with self._lock:
            self._heard("command")
            if self._began is not None:
                self._commanded.append((nanoseconds(message.header.stamp), positions))

    def _on_state(self, message: JointState) -> None:
        order = [message.name.index(name) for name in self._contract.actions[0].joints]
        positions = [message.position[i] for i in order]
        with self._lock:
            self._heard(self._contract.states[0].name)
            self._stamp = nanoseconds(message.header.stamp)
            if self._began is not None:
                self._measured.append((self._stamp, positions))

    def _on_image(self, camera: Any, message: Image) -> None:
        picture = decode_camera(camera, message)
        with self._lock:
            self._heard(camera.name)
            self._pictures[camera.name] = picture

    def _on_overview(self, message: Image) -> None:
        """Each overview picture becomes a frame of the video."""
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        main = rows[:, : message.width * 3].reshape(message.height, message.width, 3)
        with self._lock:
            if self._began is None:
                return
            picture = RunPicture(
                main=main,
                insets=[
                    (camera.name, self._pictures[camera.name])
                    for camera in self._contract.cameras
                    if camera.name in self._pictures
                ],
                task=self._task,
                subtask=self._subtasks[-1][1] if self._subtasks else "",
                state=self._state,
                elapsed=self._elapsed(),
                value=self._value,
                values=tuple(self._values),
                energy=self._energy,
            )
        self._video.write(compose(picture), nanoseconds(message.header.stamp))

    def _on_chunk(self, message: ActionChunk) -> None:
        with self._lock:
            self._heard("chunk")
            self._latencies.append(message.latency)
            self._energy = message.energy

    def _on_subtask(self, message: Subtask) -> None:
        with self._lock:
            self._subtasks.append((nanoseconds(message.header.stamp), message.subtask))

    def _on_value(self, message: ValueEstimate) -> None:
        with self._lock:
            self._value, self._trend = message.value, message.trend
            self._values.append(message.value)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        with self._lock:
            for status in array.status:
                self._statuses[status.name] = status
