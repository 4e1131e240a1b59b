# SPDX-License-Identifier: Apache-2.0
"""A client of the running graph: what a user sees from outside, with bounded waits."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory
from vla_interfaces.action import ExecuteTask
from vla_interfaces.srv import ResetSimulation

from vla_nodes.contract import Contract
from vla_nodes.nodes.stamps import nanoseconds

FOUND_OUTSIDE = 1e-3  # rad or m


@dataclass(frozen=True)
class SentCommand:
    """A command off the wire.

    ``sent`` is when the middleware took it, on this machine's monotonic clock; ``stamped`` is what
    its header says; both in seconds.
    """

    sent: float
    stamped: float
    positions: np.ndarray
    velocities: np.ndarray


class GraphClient:
    """Talks to the graph from a node of its own, spun in a thread; a context manager."""

    def __init__(self, domain: int, command_topic: str, joints: tuple[str, ...]) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("graph_client", context=self.context)
        self.changed = threading.Condition()
        self.diagnostics: dict[str, tuple[int, str, dict[str, str]]] = {}
        self.commands: list[SentCommand] = []
        self.feedback: list[Any] = []
        self._joints = joints
        self._goal_handle: Any = None
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.node.create_subscription(JointTrajectory, command_topic, self._on_command, 200)
        self._tasks = ActionClient(self.node, ExecuteTask, "execute_task")
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)

    def __enter__(self) -> "GraphClient":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()

    # --- waiting ------------------------------------------------------------------------------

    def wait_until(self, holds: Callable[[], Any], timeout: float, what: str) -> Any:
        """Wait for something that messages bring about; fails after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        with self.changed:
            while not (value := holds()):
                left = end - time.monotonic()
                assert left > 0, f"not within {timeout:g} s: {what}; {self.diagnostics}"
                self.changed.wait(min(left, 0.2))
        return value

    def result(self, future: Any, timeout: float, what: str) -> Any:
        """The result of a future that the executor's thread completes."""
        done = threading.Event()
        future.add_done_callback(lambda _future: done.set())
        assert done.wait(timeout), f"not within {timeout:g} s: {what}; {self.diagnostics}"
        return future.result()

    def value(self, node: str, key: str) -> str:
        """A figure from a node's newest diagnostics; empty before the first."""
        return self.diagnostics.get(f"/{node}", (0, "", {}))[2].get(key, "")

    def message(self, node: str) -> str:
        """The message of a node's newest diagnostics."""
        return self.diagnostics.get(f"/{node}", (0, "", {}))[1]

    def wait_until_ready(self, timeout: float = 40.0) -> None:
        """Wait until the supervisor would start a task, and knows it freshly."""
        self.diagnostics.pop("/supervisor", None)
        self.wait_until(
            lambda: self.value("supervisor", "ready") == "True", timeout, "the graph is ready"
        )

    # --- doing --------------------------------------------------------------------------------

    def start(self, task: str, time_limit: float = 30.0) -> Any:
        """Send a task; returns the future of its result."""
        assert self._tasks.wait_for_server(10.0)
        goal = ExecuteTask.Goal(task=task, time_limit=time_limit)
        sent = self._in_executor(
            lambda: self._tasks.send_goal_async(goal, feedback_callback=self._on_feedback)
        )
        self._goal_handle = self.result(sent, 5.0, "the task is accepted")
        assert self._goal_handle.accepted
        return self._in_executor(self._goal_handle.get_result_async)

    def execute(self, task: str, time_limit: float = 30.0) -> Any:
        """Send a task and wait for its result."""
        future = self.start(task, time_limit)
        return self.result(future, time_limit * 3 + 20.0, "the task ends").result

    def cancel(self) -> None:
        """Cancel the task that was started last."""
        answer = self._in_executor(self._goal_handle.cancel_goal_async)
        self.result(answer, 5.0, "the cancellation is answered")

    def call(self, kind: type, name: str, request: Any, timeout: float = 10.0) -> Any:
        """Call a service."""
        client = self.node.create_client(kind, name)
        try:
            assert client.wait_for_service(timeout), f"no service {name}"
            return self.result(client.call_async(request), timeout, f"{name} answers")
        finally:
            self.node.destroy_client(client)

    def estop(self, pressed: bool) -> Any:
        """Press or reset the e-stop at the supervisor."""
        return self.call(SetBool, "supervisor/estop", SetBool.Request(data=pressed))

    def transition(self, node: str, number: int) -> bool:
        """Ask a node for a lifecycle transition."""
        request = ChangeState.Request()
        request.transition.id = number
        return self.call(ChangeState, f"{node}/change_state", request).success

    def reset_simulation(self, seed: int, cubes: int) -> str:
        """Lay the table anew; returns what lies on it."""
        request = ResetSimulation.Request(seed=seed, cubes=cubes)
        response = self.call(ResetSimulation, "reset_simulation", request)
        assert response.success, response.message
        return response.message

    def _in_executor(self, request: Callable[[], Any]) -> Any:
        """Send a request of the action from the executor's thread.

        rclpy notes a request only after it is sent: from another thread the answer may come first.
        """
        return self.result(self._executor.create_task(request), 5.0, "the request is sent")

    # --- looking ------------------------------------------------------------------------------

    def speed(self) -> float:
        """Greatest commanded joint speed in the newest command; 0 before the first."""
        return float(np.abs(self.commands[-1].velocities).max()) if self.commands else 0.0

    def wait_until_moving(self) -> None:
        """Wait until the robot moves at a good pace."""
        self.wait_until(lambda: self.speed() > 0.2, 15.0, "the robot moves")

    def seconds_to_rest(self, since: float, timeout: float = 5.0) -> float:
        """Seconds from ``since`` (monotonic) to the last command that still moves the robot.

        Waits until the commands have stood still, or have been silent, for half a second.
        """

        def last_motion() -> float:
            moving = [c.sent for c in self.commands if np.any(c.velocities)]
            return max(moving, default=since)

        self.wait_until(
            lambda: time.monotonic() - last_motion() > 0.5 and time.monotonic() - since > 0.5,
            timeout,
            "the robot is at rest",
        )
        return last_motion() - since

    def check_limits(self, contract: Contract, simulated_time: bool = False) -> None:
        """Every command so far obeys the contract, computed from what was on the wire.

        Time is when commands were sent, or their stamps where a simulation sets the pace.
        """
        lower, upper, fastest, hardest = np.array(
            [(j.lower, j.upper, j.velocity, j.acceleration) for j in contract.limits]
        ).T
        commands = list(self.commands)  # More may be coming.
        positions = np.array([c.positions for c in commands])
        velocities = np.array([c.velocities for c in commands])
        times = np.array([c.stamped if simulated_time else c.sent for c in commands])
        assert not simulated_time or (np.diff(times) > 0).all()
        assert np.isfinite(positions).all()
        assert np.isfinite(velocities).all()
        # A joint found outside, as a gripper at its stop is by a hair, is held where it is.
        assert (positions >= lower - FOUND_OUTSIDE).all()
        assert (positions <= upper + FOUND_OUTSIDE).all()
        assert (np.abs(velocities) <= fastest * (1 + 1e-9)).all()
        # A command is sent a little after its tick: four samples and a period even that out.
        span = (times[4:] - times[:-4] + 0.01)[:, None]
        assert (np.abs(positions[4:] - positions[:-4]) <= 1.05 * fastest * span).all()
        assert (np.abs(velocities[4:] - velocities[:-4]) <= 1.1 * hardest * (span + 0.02)).all()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        with self.changed:
            for status in array.status:
                values = {pair.key: pair.value for pair in status.values}
                level = int.from_bytes(status.level, "little")
                self.diagnostics[status.name] = (level, status.message, values)
            self.changed.notify_all()

    def _on_command(self, message: JointTrajectory, info: dict) -> None:
        monotonic_from_wall = time.monotonic() - time.time()
        order = [message.joint_names.index(joint) for joint in self._joints]
        point = message.points[0]
        command = SentCommand(
            info["source_timestamp"] * 1e-9 + monotonic_from_wall,
            nanoseconds(message.header.stamp) * 1e-9,
            np.array(point.positions)[order],
            np.array(point.velocities)[order],
        )
        with self.changed:
            self.commands.append(command)
            self.changed.notify_all()

    def _on_feedback(self, message: Any) -> None:
        with self.changed:
            self.feedback.append(message.feedback)
            self.changed.notify_all()
