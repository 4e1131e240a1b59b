# SPDX-License-Identifier: Apache-2.0
"""The value monitor: how far the task has come, by what the cameras show.

The value function computes in a worker thread of its own, always on the newest pictures, so that
no callback ever waits for it and nothing queues up behind it. The robot does not depend on this
node.
"""

import gc
import math
import os
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from std_msgs.msg import Float32
from vla_interfaces.msg import ActionChunk, Subtask, Task, ValueEstimate

from vla_nodes.contract import Contract, load_contract
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.diagnostics import OK, WARN, Health, Percentiles, RateMeter
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.observing import frozen_streams, image_message, stream_figures
from vla_nodes.nodes.parameters import ParameterError
from vla_nodes.nodes.process import run_node
from vla_nodes.nodes.stamps import nanoseconds, time_message
from vla_nodes.nodes.value_display import ValueDisplay
from vla_nodes.nodes.value_estimator import Estimate, ValueEstimator, estimate_period
from vla_nodes.nodes.value_monitor_parameters import (
    ValueMonitorParameters,
    check_contents,
    event_settings,
    load_runtime,
)
from vla_nodes.observation.assembler import NotReady, Observation, ObservationAssembler

WAKE_PERIOD = 0.1  # s; the worker looks around at least this often
STOP_TIMEOUT = 5.0  # s that deactivation waits for the worker
NICENESS = 5
NO_TASK = "no task is given: waiting"


class ValueMonitor(ManagedNode[ValueMonitorParameters]):
    """The lifecycle node; see the module."""

    def __init__(self) -> None:
        super().__init__("value_monitor", ValueMonitorParameters)
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._task, self._subtask, self._chunk = Task(), Subtask(), ActionChunk()
        self._watched = (Task.GOAL_NONE, "", "")
        self._observed: Observation | None = None
        self._observed_at = 0
        self._last_stamp = self._last_reached = 0
        self._looked = -math.inf
        self._blocked = ""

    @property
    def autostart(self) -> bool:  # type: ignore[override]
        """As the parameter says."""
        return self.get_parameter("autostart").value

    # --- lifecycle ------------------------------------------------------------------------

    def configure(self, parameters: ValueMonitorParameters) -> None:
        """Load the contract and the value function, and subscribe to what it looks at."""
        check_contents(parameters)
        settings = event_settings(parameters)
        contract = load_contract(parameters.contract)
        self._runtime = load_runtime(parameters, contract)
        names = self._runtime.cameras
        self._shown = parameters.display_camera or names[0]
        if self._shown not in names:
            raise ParameterError(
                f"parameter 'display_camera' is '{self._shown}'; it must be one that the value "
                f"function looks at: {', '.join(names)}"
            )
        self._contract = pictures_only(contract, names)
        self._assembler = ObservationAssembler(self._contract)
        config = self._runtime.checkpoint.config
        self._period = estimate_period(parameters.rate, config.history, config.history_step)
        self._estimator = ValueEstimator(self._runtime, settings, parameters.quantiles)
        self._rate, self._model, self._overhead = RateMeter(), Percentiles(), Percentiles()
        self._values = self.publish_on(ValueEstimate, topics.VALUE, qos.NEWEST)
        self._expectation = self.publish_on(Float32, topics.VALUE_EXPECTATION, qos.NEWEST)
        self._display = ValueDisplay(self, parameters)
        self.subscribe(Task, topics.TASK, self._on_task, qos.NEWEST)
        self.subscribe(Subtask, topics.SUBTASK, self._on_subtask, qos.LATCHED)
        self.subscribe(ActionChunk, topics.CHUNK, self._on_chunk, qos.NEWEST)
        for camera in self._contract.cameras:
            callback = partial(self._on_image, camera.name)
            self.subscribe(image_message(camera), camera.topic, callback, qos.sensor(camera.qos))
        if parameters.display_rate:
            self.steady_timer(1.0 / parameters.display_rate, self._show)

    def waiting_for(self) -> str:
        """The last estimate; a camera that is missing is waited for in the active state."""
        if self._worker is not None:
            if self._worker.is_alive():
                return "the last estimate to end"
            self._worker = None
        return ""

    def activate(self) -> None:
        """Start the worker."""
        self._stop = threading.Event()
        self._worker = threading.Thread(
            target=self._work, args=(self._stop,), name="value", daemon=True
        )
        self._worker.start()

    def deactivate(self) -> None:
        """Stop the worker after its present estimate.

        Raises:
            TimeoutError: The value function did not come back.
        """
        self._stop.set()
        with self._wake:
            self._wake.notify()
        if self._worker is not None:
            self._worker.join(STOP_TIMEOUT)
            if self._worker.is_alive():
                raise TimeoutError(f"the value function did not come back in {STOP_TIMEOUT:g} s")
            self._worker = None
        self.goal = Task.GOAL_NONE

    def cleanup(self) -> None:
        """Let the value function go: another would not find room beside it."""
        for holder in ("_runtime", "_estimator"):
            self.__dict__.pop(holder, None)
        self._observed = None
        gc.collect()

    def health(self) -> Health:
        """Rates, latencies, and of each camera its rate, age and faults."""
        streams = self._assembler.health(self.ros_now())
        task, subtask = self._texts()[1:]
        interface = self._runtime.checkpoint.interface
        assert interface is not None  # what a runtime loads was trained
        values: dict[str, object] = {
            "value_hz": self._rate.hz(time.monotonic_ns()),
            **self._model.values("model"),
            **self._overhead.values("overhead"),
            "task": task,
            "waiting_for": self._blocked,
            **stream_figures(streams, self._observed),
        }
        problems = [
            *([self._blocked] if self._blocked not in ("", NO_TASK) else []),
            *(
                f"nobody publishes {camera.topic}"
                for camera in self._contract.cameras
                if not self.count_publishers(camera.topic)
            ),
            *(
                f"the value function was not trained on '{text[:80]}'"
                for text in (task, subtask)
                if text and text not in interface.tasks
            ),
            *(
                f"the contract has no {name}, which the value function was trained with"
                for name in interface.cameras
                if name not in self._runtime.cameras
            ),
            *frozen_streams(streams),
        ]
        message = "; ".join(problems) or self._blocked or "ok"
        return Health(WARN if problems else OK, message, values)

    # --- callbacks: never wait --------------------------------------------------------------

    def _on_image(self, name: str, message: Any) -> None:
        stamp = nanoseconds(message.header.stamp)
        self._assembler.add_image(name, message, stamp, self.ros_now())
        with self._wake:
            self._wake.notify()

    def _on_task(self, message: Task) -> None:
        self._task = message

    def _on_subtask(self, message: Subtask) -> None:
        self._subtask = message

    def _on_chunk(self, message: ActionChunk) -> None:
        self._chunk = message

    def _show(self) -> None:
        if not self.is_active:
            return
        observed, chunk = self._observed, self._chunk
        picture = observed.images[self._shown] if observed else None
        goal = self._watched[0]
        energy = chunk.energy if goal != Task.GOAL_NONE and chunk.goal == goal else math.nan
        self._display.show(picture, energy, self.ros_now(), self._blocked)

    # --- the worker -------------------------------------------------------------------------

    def _work(self, stop: threading.Event) -> None:
        # What only watches gives way to what drives; on Linux this is of the thread alone.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while not stop.is_set():
            with self._wake:
                self._wake.wait(WAKE_PERIOD)
            self.progress += 1
            try:
                self._step(stop)
            except Exception:
                if not stop.is_set():
                    self.fail(f"the value function failed\n{traceback.format_exc()}")
                return

    def _texts(self) -> tuple[int, str, str]:
        """Goal, task and subtask to watch; an empty task when there is none."""
        task, subtask = self._task, self._subtask
        if task.goal == Task.GOAL_NONE:
            return Task.GOAL_NONE, self.parameters.task.strip(), ""
        of_goal = subtask.subtask if subtask.goal == task.goal else ""
        return task.goal, task.text.strip(), of_goal.strip()

    def _step(self, stop: threading.Event) -> None:
        """Make one estimate if there is a task and a new observation."""
        watched = goal, task, subtask = self._texts()
        self.goal = goal
        reached = self._reached()
        if not self._is_due(reached):
            return
        self._looked = time.monotonic()
        now = self.ros_now()
        observation = self._assembler.latest(now)
        if isinstance(observation, NotReady):
            self._blocked = str(observation)
            return
        if observation.stamp == self._last_stamp:
            return
        self._observed, self._observed_at, self._last_stamp = observation, now, observation.stamp
        self._last_reached = reached or 0
        self._watched = watched
        self._blocked = "" if task else NO_TASK
        if not task:
            return
        try:
            estimate = self._estimator.estimate(observation, goal, task, subtask)
        except ValueError as error:  # What a text says must not end the node.
            self._blocked = str(error)
            return
        if not stop.is_set():
            self._publish(observation, estimate)

    def _reached(self) -> int | None:
        """Stamp up to which every camera has shown what there was, ns; None before all have."""
        stamps = [self._assembler.newest(camera.name) for camera in self._contract.cameras]
        newest = [stamp for stamp in stamps if stamp is not None]
        return min(newest) if len(newest) == len(stamps) else None

    def _is_due(self, reached: int | None) -> bool:
        """Whether all cameras have got on by a period, or nothing was looked at for long.

        What one camera shows now belongs with what another is about to deliver.
        """
        if reached is not None and not 0 <= reached - self._last_reached < 0.9e9 * self._period:
            return True
        return time.monotonic() - self._looked > 2 * self._period

    def _publish(self, observation: Observation, estimate: Estimate) -> None:
        goal, task, subtask = self._watched
        reading, events = estimate.reading, estimate.events
        now = self.ros_now()
        age = (now - observation.stamp) * 1e-9
        message = ValueEstimate(
            goal=goal,
            task=task,
            subtask=subtask,
            value=reading.value,
            subtask_value=estimate.subtask_value,
            quantile_levels=self.parameters.quantiles,
            quantiles=reading.quantiles,
            entropy=reading.entropy,
            probabilities=estimate.probabilities.tolist(),
            trend=events.trend,
            finished=events.finished,
            subtask_finished=events.subtask_finished,
            stalled=events.stalled,
            dropped=events.dropped,
            age=age,
            inputs=list(observation.ages),
            input_ages=[a + (now - self._observed_at) * 1e-9 for a in observation.ages.values()],
        )
        message.header.stamp = time_message(observation.stamp)
        self._values.publish(message)
        self._expectation.publish(Float32(data=reading.value))
        self._display.add(message)
        self._model.add(estimate.seconds)
        self._overhead.add(age - estimate.seconds)
        self._rate.event(time.monotonic_ns())


def pictures_only(contract: Contract, names: Sequence[str]) -> Contract:
    """A contract of some cameras and nothing else, dated by the same stream where it is there."""
    reference = contract.reference if contract.reference in names else names[0]
    cameras = tuple(camera for camera in contract.cameras if camera.name in names)
    return replace(contract, cameras=cameras, states=(), reference=reference)


def main() -> None:
    """Entry point of the process."""
    run_node(ValueMonitor)


if __name__ == "__main__":
    main()
