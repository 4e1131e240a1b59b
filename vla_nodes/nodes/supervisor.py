# SPDX-License-Identifier: Apache-2.0
"""The supervisor: takes tasks, keeps the other nodes up, and says how a task ended.

While a goal runs, the supervisor repeats it as ``Task`` messages. They are the lease under which
the commander moves: when they stop, or name no goal, the robot brakes and holds.
"""

import math
import time
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from std_msgs.msg import Bool
from std_srvs.srv import SetBool
from vla_interfaces.action import ExecuteTask
from vla_interfaces.msg import ActionChunk, Heartbeat, Subtask, Task, TaskResult, ValueEstimate

from vla_nodes.contract import load_contract
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.diagnostics import OK, WARN, Health
from vla_nodes.nodes.estop import subscribe_estop
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.lifecycle_manager import LifecycleManager, Patience
from vla_nodes.nodes.parameters import parameter
from vla_nodes.nodes.process import run_node
from vla_nodes.nodes.realtime import raise_priority

LEASE_PERIOD = 0.05  # s
ESTOP_TIMEOUT = 2.0  # s that the e-stop service waits for the commander
PRIORITY = 70  # below the commander's, which must never wait
MAX_TASK_LENGTH = 512  # characters, as in Task.msg and TaskResult.msg


@dataclass(frozen=True)
class SupervisorParameters:
    """Parameters of the supervisor."""

    contract: str = parameter("", "Path of the robot's contract, YAML")
    autostart: bool = parameter(True, "Become active, and bring the others up, without being told")
    managed_nodes: tuple[str, ...] = parameter(
        ("commander", "policy"), "Nodes to bring up, in this order"
    )
    optional_nodes: tuple[str, ...] = parameter(
        ("",), "Managed nodes whose loss does not end a task"
    )
    time_limit: float = parameter(
        120.0, "Seconds a task may take when the goal names no limit", minimum=0.1
    )
    stall_timeout: float = parameter(
        10.0, "Seconds without progress, as the value monitor sees it, that end a task", minimum=0.0
    )
    value_timeout: float = parameter(
        3.0,
        "Seconds without an estimate after which the value counts as unknown; longer than the "
        "slowest estimate",
        minimum=0.1,
    )
    heartbeat_timeout: float = parameter(
        1.0,
        "Seconds of silence after which a node counts as dead; shorter stops sooner, "
        "but an overloaded machine delays heartbeats by half a second",
        minimum=0.1,
        maximum=10.0,
    )
    progress_timeout: float = parameter(
        2.0,
        "Seconds an active node may go without progress; longer than the slowest inference",
        minimum=0.1,
    )
    transition_timeout: float = parameter(
        60.0, "Seconds a node may take to configure or activate", minimum=1.0
    )
    restarts: int = parameter(
        3,
        "Failures of one node within restart_window that are borne; one more and it is given up",
        minimum=0,
    )
    restart_window: float = parameter(
        60.0, "Seconds after which a failure is forgotten", minimum=1.0
    )


@dataclass
class _Goal:
    """The task being executed."""

    number: int
    text: str
    time_limit: float
    handle: Any
    started: int
    ended: Future = field(default_factory=Future)
    subtask: str = ""
    value: float = math.nan
    trend: float = math.nan
    valued: float = -math.inf
    energy: float = math.nan
    finished: bool = False
    stalled_since: int | None = None


class Supervisor(ManagedNode[SupervisorParameters]):
    """The lifecycle node; see the module."""

    def __init__(self) -> None:
        # Its lease and its watch must not wait for what it watches.
        raise_priority(PRIORITY)
        super().__init__("supervisor", SupervisorParameters)
        self._running: _Goal | None = None
        self._estopped = False
        self._presses = 0
        self._last_number = 0
        self._last_outcome = "none yet"
        self._action: ActionServer | None = None

    @property
    def autostart(self) -> bool:  # type: ignore[override]
        """As the parameter says."""
        return self.get_parameter("autostart").value

    # --- lifecycle ------------------------------------------------------------------------

    def configure(self, parameters: SupervisorParameters) -> None:
        """Create the action, the services and the watch over the managed nodes."""
        self._tasks = load_contract(parameters.contract).tasks if parameters.contract else ()
        self._required = [n for n in parameters.managed_nodes if n not in parameters.optional_nodes]
        self._manager = LifecycleManager(
            self,
            parameters.managed_nodes,
            parameters.optional_nodes,
            Patience(
                heartbeat=parameters.heartbeat_timeout,
                progress=parameters.progress_timeout,
                transition=parameters.transition_timeout,
                window=parameters.restart_window,
                restarts=parameters.restarts,
            ),
        )
        self._lease = self.publish_on(Task, topics.TASK, qos.NEWEST)
        self._result = self.publish_on(TaskResult, topics.TASK_RESULT, qos.LATCHED)
        self.subscribe(Heartbeat, topics.HEARTBEAT, self._on_heartbeat, qos.SHARED)
        self.subscribe(Subtask, topics.SUBTASK, self._on_subtask, qos.LATCHED)
        self.subscribe(ActionChunk, topics.CHUNK, self._on_chunk, qos.NEWEST)
        self.subscribe(ValueEstimate, topics.VALUE, self._on_value, qos.NEWEST)
        # While the e-stop service waits for the commander, all else goes on, presses too.
        own = ReentrantCallbackGroup()
        self._commander_estop = self.create_client(SetBool, "commander/estop", callback_group=own)
        self.create_service(SetBool, "~/estop", self._on_estop, callback_group=own)
        self._asked: list[tuple[Future, float]] = []
        subscribe_estop(self, self._on_button)
        self._action = ActionServer(
            self,
            ExecuteTask,
            topics.EXECUTE_TASK,
            execute_callback=self._execute,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
        )
        self.steady_timer(LEASE_PERIOD, self._tick)

    def deactivate(self) -> None:
        """End the task, withdraw the lease, take the others down."""
        self._end(ExecuteTask.Result.OUTCOME_ABORTED, "the supervisor was deactivated")
        self._publish_lease()
        self._manager.deactivate_all()

    def cleanup(self) -> None:
        """Release the action server, which is no ordinary entity of the node."""
        if self._action is not None:
            self._action.destroy()
            self._action = None

    def health(self) -> Health:
        """Which nodes are missing, what runs, and how the last task ended."""
        now = time.monotonic()
        names = self.parameters.managed_nodes
        problems = [problem for name in names if (problem := self._manager.problem(name, now))]
        values = {
            "task": self._running.text if self._running else "",
            "ready": not any(self._manager.problem(name, now) for name in self._required),
            "estopped": self._estopped,
            "last_outcome": self._last_outcome,
        }
        return Health(WARN if problems else OK, "; ".join(problems) or "ok", values)

    # --- the action -----------------------------------------------------------------------

    async def _execute(self, handle: Any) -> ExecuteTask.Result:
        """Run one goal to its end; a goal that cannot start ends as rejected."""
        if refusal := self._refusal(handle.request):
            handle.abort()
            self.get_logger().warning(f"task refused: {refusal}")
            return ExecuteTask.Result(
                outcome=ExecuteTask.Result.OUTCOME_REJECTED, message=refusal, final_value=math.nan
            )
        # Greater than any number of an earlier supervisor process, too.
        self._last_number = max(self._last_number + 1, time.time_ns())
        goal = _Goal(
            number=self._last_number,
            text=handle.request.task.strip(),
            time_limit=handle.request.time_limit or self.parameters.time_limit,
            handle=handle,
            started=self.ros_now(),
        )
        self._running = goal
        self.goal = goal.number
        self.get_logger().info(f"task: {goal.text}")
        return await goal.ended

    def _refusal(self, request: Any) -> str:
        """Why a goal cannot be started; empty when it can."""
        text = request.task.strip()
        if not text or len(text) > MAX_TASK_LENGTH:
            return f"the task must have 1 to {MAX_TASK_LENGTH} characters; it has {len(text)}"
        if any(unicodedata.category(character) == "Cc" for character in text):
            return "the task contains control characters"
        if self._tasks and text not in self._tasks:
            return f"unknown task '{text[:80]}'; this robot knows: {'; '.join(self._tasks)}"
        if not (math.isfinite(request.time_limit) and request.time_limit >= 0):
            return f"time_limit is {request.time_limit}; it must be 0 or more seconds"
        if not self.is_active:
            return "the supervisor is not active"
        if self._running:
            return f"busy with '{self._running.text[:80]}'; cancel that first"
        if self._estopped:
            return "the e-stop is pressed; reset it first"
        now = time.monotonic()
        problems = [p for name in self._required if (p := self._manager.problem(name, now))]
        return "not ready: " + "; ".join(problems) if problems else ""

    def _end(self, outcome: int, message: str) -> None:
        goal = self._running
        if goal is None:
            return
        self._running = None
        self.goal = 0
        elapsed = (self.ros_now() - goal.started) * 1e-9
        if outcome == ExecuteTask.Result.OUTCOME_SUCCESS:
            goal.handle.succeed()
        elif outcome == ExecuteTask.Result.OUTCOME_CANCELLED:
            goal.handle.canceled()
        else:
            goal.handle.abort()
        self._last_outcome = f"{message} ({elapsed:.1f} s)"
        self.get_logger().info(f"task ended: {self._last_outcome}")
        self._publish_result(goal, outcome, message)
        goal.ended.set_result(
            ExecuteTask.Result(
                outcome=outcome, message=message, final_value=goal.value, elapsed=elapsed
            )
        )

    def _publish_result(self, goal: _Goal, outcome: int, message: str) -> None:
        """For those who are not the client of the action."""
        result = TaskResult(
            goal=goal.number, task=goal.text, outcome=outcome, message=message[:MAX_TASK_LENGTH]
        )
        result.header.stamp = self.get_clock().now().to_msg()
        self._result.publish(result)

    # --- the rhythm -------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        self.progress += 1
        self._expire_asked(now)
        if not self.is_active:
            return
        # Judged first: bringing a failed node up again would hide why it failed.
        if self._running:
            self._judge(self._running, now)
        self._publish_lease()
        self._manager.tick(now)
        if self._running:
            self._running.handle.publish_feedback(self._feedback(self._running, now))

    def _judge(self, goal: _Goal, now: float) -> None:
        """End the goal if there is a reason to, the gravest first."""
        ros_now = self.ros_now()
        elapsed = (ros_now - goal.started) * 1e-9
        if not self._is_watched(goal, now):
            goal.stalled_since = None
        problems = [p for name in self._required if (p := self._manager.problem(name, now))]
        if problems:
            self._end(ExecuteTask.Result.OUTCOME_ABORTED, "; ".join(problems))
        elif goal.handle.is_cancel_requested:
            self._end(ExecuteTask.Result.OUTCOME_CANCELLED, "cancelled by the client")
        elif goal.finished:
            self._end(ExecuteTask.Result.OUTCOME_SUCCESS, "done")
        elif elapsed > goal.time_limit:
            unseen = "; no value estimate ever arrived" if math.isnan(goal.value) else ""
            self._end(
                ExecuteTask.Result.OUTCOME_TIMED_OUT,
                f"not done within {goal.time_limit:g} s{unseen}",
            )
        elif (
            goal.stalled_since is not None
            and (ros_now - goal.stalled_since) * 1e-9 > self.parameters.stall_timeout
        ):
            self._end(
                ExecuteTask.Result.OUTCOME_STALLED,
                f"no progress for {self.parameters.stall_timeout:g} s",
            )

    def _is_watched(self, goal: _Goal, now: float) -> bool:
        """Whether the newest estimate still says how the goal stands."""
        return now - goal.valued <= self.parameters.value_timeout

    def _publish_lease(self) -> None:
        message = Task(goal=Task.GOAL_NONE)
        message.header.stamp = self.get_clock().now().to_msg()
        if self._running:
            message.goal, message.text = self._running.number, self._running.text
        self._lease.publish(message)

    def _feedback(self, goal: _Goal, now: float) -> Any:
        watched = self._is_watched(goal, now)
        return ExecuteTask.Feedback(
            subtask=goal.subtask,
            value=goal.value if watched else math.nan,
            trend=goal.trend if watched else math.nan,
            energy=goal.energy,
            elapsed=(self.ros_now() - goal.started) * 1e-9,
        )

    # --- subscriptions and services -----------------------------------------------------------

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        self._manager.heard(beat, time.monotonic())

    def _on_subtask(self, message: Subtask) -> None:
        if self._running and message.goal == self._running.number:
            self._running.subtask = message.subtask

    def _on_chunk(self, message: ActionChunk) -> None:
        if self._running and message.goal == self._running.number:
            self._running.energy = message.energy

    def _on_value(self, message: ValueEstimate) -> None:
        goal = self._running
        if goal is None or message.goal != goal.number:
            return
        goal.value, goal.trend, goal.valued = message.value, message.trend, time.monotonic()
        goal.finished = message.finished
        if not message.stalled:
            goal.stalled_since = None
        elif goal.stalled_since is None:
            goal.stalled_since = self.ros_now()

    async def _on_estop(self, request: Any, response: Any) -> Any:
        """Press (true) at once; reset (false) only if the commander agrees."""
        if request.data:
            self._press()
            if self._commander_estop.service_is_ready():
                self._ask_commander(True)
            response.success, response.message = True, "e-stop pressed"
            return response
        if not self._commander_estop.service_is_ready():
            response.success, response.message = False, "the commander is not there"
            return response
        presses = self._presses
        answer = await self._ask_commander(False)
        if answer.success and presses == self._presses:
            self._estopped = False
        response.success, response.message = answer.success, answer.message
        return response

    def _on_button(self, message: Bool) -> None:
        if message.data:
            self._press()

    def _press(self) -> None:
        """End the task; the end of the lease brakes the robot, the commander's e-stop latches."""
        self._estopped = True
        self._presses += 1
        self._end(ExecuteTask.Result.OUTCOME_ABORTED, "e-stop")
        self._publish_lease()

    def _ask_commander(self, pressed: bool) -> Future:
        asked = self._commander_estop.call_async(SetBool.Request(data=pressed))
        self._asked.append((asked, time.monotonic() + ESTOP_TIMEOUT))
        return asked

    def _expire_asked(self, now: float) -> None:
        """Give up on a commander that does not answer."""
        for asked, until in self._asked:
            if now > until and not asked.done():
                self._commander_estop.remove_pending_request(asked)
                asked.set_result(SetBool.Response(message="the commander does not answer"))
        self._asked = [pair for pair in self._asked if not pair[0].done()]


def main() -> None:
    """Entry point of the process."""
    run_node(Supervisor)


if __name__ == "__main__":
    main()
