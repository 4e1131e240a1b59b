# SPDX-License-Identifier: Apache-2.0
"""The policy node: observations in, subtasks and action chunks out.

The policy computes in a worker thread of its own, always on the newest observation, so that no
callback ever waits for it and no observation ever queues up behind it.
"""

import gc
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sensor_msgs.msg import JointState
from vla_interfaces.msg import ActionChunk, Subtask, Task, ValueEstimate

from vla_nodes.contract import load_contract
from vla_nodes.inference import ActionPlan, PolicyError
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.chunk_message import chunk_message
from vla_nodes.nodes.diagnostics import OK, WARN, Health, Percentiles, RateMeter
from vla_nodes.nodes.energy_figures import EnergyFigures
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.observing import frozen_streams, image_message, stream_figures
from vla_nodes.nodes.policy_parameters import PolicyParameters, load_policy
from vla_nodes.nodes.process import run_node
from vla_nodes.nodes.stamps import nanoseconds, time_message
from vla_nodes.observation.assembler import NotReady, Observation, ObservationAssembler

WAKE_PERIOD = 0.1  # s; the worker looks around at least this often
STOP_TIMEOUT = 5.0  # s that deactivation waits for the worker


class PolicyNode(ManagedNode[PolicyParameters]):
    """The lifecycle node; see the module."""

    def __init__(self) -> None:
        super().__init__("policy", PolicyParameters)
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._task = Task()
        self._given_at = 0
        self._planned_goal = Task.GOAL_NONE
        self._subtask = ""
        self._last_plan = 0
        self._last_stamp = 0
        self._sequence = 0
        self._events: set[str] = set()
        # The callback sets the one, the worker the other, so that no event is lost between them.
        self._event: ValueEstimate | None = None  # with which the newest event began
        self._answered: ValueEstimate | None = None  # that was last planned for
        self._blocked = ""
        self._observed: Observation | None = None
        self._impossible = (Task.GOAL_NONE, "")

    # --- lifecycle ------------------------------------------------------------------------

    def configure(self, parameters: PolicyParameters) -> None:
        """Load the contract and the policy, and subscribe to what it observes."""
        self._contract = load_contract(parameters.contract)
        self._policy = load_policy(parameters, self._contract)
        self._assembler = ObservationAssembler(self._contract, tuple(self._policy.extra_states))
        self._energies = EnergyFigures(parameters.energy)
        self._latency, self._planning = Percentiles(), Percentiles()
        self._rate = RateMeter()
        self._chunks = self.publish_on(ActionChunk, topics.CHUNK, qos.NEWEST)
        self._subtasks = self.publish_on(Subtask, topics.SUBTASK, qos.LATCHED)
        self.subscribe(Task, topics.TASK, self._on_task, qos.NEWEST)
        self.subscribe(ValueEstimate, topics.VALUE, self._on_value, qos.NEWEST)
        self._input_topics = self._subscribe_inputs()

    def _subscribe_inputs(self) -> Sequence[str]:
        streams: list[tuple[Any, type, Callable]] = [
            (camera, image_message(camera), self._assembler.add_image)
            for camera in self._contract.cameras
        ]
        streams += [
            (state, JointState, self._assembler.add_state)
            for state in (*self._contract.states, *self._policy.extra_states)
        ]
        for stream, kind, add in streams:
            callback = partial(self._on_input, stream.name, add)
            self.subscribe(kind, stream.topic, callback, qos.sensor(stream.qos))
        return [stream.topic for stream, _, _ in streams]

    def waiting_for(self) -> str:
        """Topics of the contract that nobody publishes."""
        if self._worker is not None:
            if self._worker.is_alive():
                return "the last inference to end"
            self._worker = None
        silent = [topic for topic in self._input_topics if not self.count_publishers(topic)]
        return "somebody to publish " + ", ".join(silent) if silent else ""

    def activate(self) -> None:
        """Start the worker; it begins afresh, as its last chunk may never have been sent."""
        self._planned_goal, self._impossible = Task.GOAL_NONE, (Task.GOAL_NONE, "")
        self._stop = threading.Event()
        self._worker = threading.Thread(
            target=self._work, args=(self._stop,), name="policy", daemon=True
        )
        self._worker.start()

    def deactivate(self) -> None:
        """Stop the worker after its present step.

        Raises:
            TimeoutError: The policy did not come back.
        """
        self._stop.set()
        with self._wake:
            self._wake.notify()
        if self._worker is not None:
            self._worker.join(STOP_TIMEOUT)
            if self._worker.is_alive():
                raise TimeoutError(f"the policy did not come back within {STOP_TIMEOUT:g} s")
            self._worker = None
        self.goal = Task.GOAL_NONE

    def cleanup(self) -> None:
        """Let the policy go: another would not find room beside it."""
        if hasattr(self, "_policy"):
            del self._policy
        gc.collect()  # compiled models, for one, hold themselves

    def working_fault(self) -> str:
        """Why the policy cannot do the present task."""
        goal, why = self._impossible
        return why if goal == self._task.goal else ""

    def health(self) -> Health:
        """Rates, latencies, energies, and of each input its rate, age, skew and faults."""
        streams = self._assembler.health(self.ros_now())
        values: dict[str, object] = {
            "chunk_hz": self._rate.hz(time.monotonic_ns()),
            **self._latency.values("chunk_latency"),
            **self._planning.values("planner_latency"),
            **self._energies.values(),
            "subtask": self._subtask,
            "waiting_for": self._blocked,
            **stream_figures(streams, self._observed),
        }
        idle = Task.GOAL_NONE != self.goal == self._planned_goal and not self._subtask
        done = "the planner finds nothing left to do" if idle else ""
        problems = [*filter(None, (self._blocked, done)), *self._energies.problems()]
        problems += frozen_streams(streams)
        return Health(WARN if problems else OK, "; ".join(problems) or "ok", values)

    # --- callbacks: never wait --------------------------------------------------------------

    def _on_input(self, name: str, add: Callable, message: Any) -> None:
        add(name, message, nanoseconds(message.header.stamp), self.ros_now())
        with self._wake:
            self._wake.notify()

    def _on_task(self, message: Task) -> None:
        if message.goal != self._task.goal:
            self._given_at = nanoseconds(message.header.stamp)
            self._event, self._events = None, set()
        self._task = message

    def _on_value(self, message: ValueEstimate) -> None:
        """Replan when an event begins; one that lasts is known by then."""
        if message.goal != self._task.goal:
            return
        events = {
            "stalled": message.stalled,
            "dropped": message.dropped,
            f"finished: {message.subtask}": message.subtask_finished,
        }
        present = {event for event, holds in events.items() if holds}
        if present - self._events:
            self._event = message
        self._events = present

    # --- the worker -------------------------------------------------------------------------

    def _work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._wake:
                self._wake.wait(WAKE_PERIOD)
            self.progress += 1
            try:
                self._step(self._task, stop)
            except PolicyError as error:
                self._impossible = (self.goal, str(error))
            except Exception:
                if not stop.is_set():
                    self.fail(f"the policy failed\n{traceback.format_exc()}")
                return

    def _step(self, task: Task, stop: threading.Event) -> None:
        """Compute one chunk if there is a goal and a new observation."""
        self.goal = task.goal
        if task.goal in (Task.GOAL_NONE, self._impossible[0]):
            self._blocked = ""
            return
        started = time.monotonic()
        observation = self._assembler.latest(self.ros_now())
        if isinstance(observation, NotReady):
            self._blocked = "" if observation.reason == "pending" else str(observation)
            return
        self._blocked = ""
        clock_went_back = observation.stamp < self._last_stamp
        if clock_went_back:
            self._given_at = 0
        if observation.stamp < self._given_at:
            return  # It may show the scene before this goal.
        if (
            not clock_went_back
            and observation.stamp - self._last_stamp < 0.9e9 / self.parameters.rate
        ):
            return
        self._last_stamp = observation.stamp
        self._observed = observation
        self._plan(task, observation, stop)
        if self._is_over(task, stop) or not self._subtask:
            return
        plan = self._policy.act(observation, self._subtask)
        if self._is_over(task, stop):
            return
        self._publish(task, observation, plan, time.monotonic() - started)

    def _is_over(self, task: Task, stop: threading.Event) -> bool:
        """Whether nobody waits for this task's results any more."""
        return stop.is_set() or task.goal != self._task.goal

    def _plan(self, task: Task, observation: Observation, stop: threading.Event) -> None:
        """Let the planner choose the subtask: for a new goal, when told to, and now and then."""
        fresh = task.goal != self._planned_goal
        due = abs(observation.stamp - self._last_plan) >= self.parameters.planner_period * 1e9
        # An observation from before the event would show the planner nothing new.
        event = self._event
        wanted = (
            event is not None
            and event is not self._answered
            and observation.stamp >= nanoseconds(event.header.stamp)
        )
        if not (fresh or due or wanted):
            return
        if fresh:
            self._policy.reset()
        if wanted:
            self._answered = event
        began = time.monotonic()
        subtask = self._policy.plan_subtask(observation, task.text)
        self._planning.add(time.monotonic() - began)
        if self._is_over(task, stop):
            return
        self._planned_goal, self._last_plan = task.goal, observation.stamp
        if fresh or subtask != self._subtask:
            self._subtask = subtask
            message = Subtask(goal=task.goal, task=task.text, subtask=subtask)
            message.header.stamp = time_message(observation.stamp)
            self._subtasks.publish(message)

    def _publish(
        self, task: Task, observation: Observation, plan: ActionPlan, latency: float
    ) -> None:
        self._energies.add(plan)
        self._sequence += 1
        message = chunk_message(self._contract, observation.stamp, plan)
        message.goal = task.goal
        message.sequence = self._sequence
        message.subtask = self._subtask
        message.latency = latency
        self._chunks.publish(message)
        self._latency.add(latency)
        self._rate.event(time.monotonic_ns())


def main() -> None:
    """Entry point of the process."""
    run_node(PolicyNode)


if __name__ == "__main__":
    main()
