# SPDX-License-Identifier: Apache-2.0
"""The commander node: the last door before the robot.

A loop at a fixed rate in a thread of its own owns the motion core; callbacks only leave what
arrived in an inbox that the loop empties at every tick. In lock step with a simulation the loop
ticks on every joint state instead, in the simulation's time.
"""

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool
from vla_interfaces.msg import ActionChunk, Task

from vla_nodes.contract import StateSource, load_contract
from vla_nodes.control import MotionCore, MotionParameters, OfferedChunk, State
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.command_output import command_outputs
from vla_nodes.nodes.commander_parameters import CommanderParameters
from vla_nodes.nodes.diagnostics import OK, Health, Percentiles, RateMeter
from vla_nodes.nodes.estop import subscribe_estop
from vla_nodes.nodes.lifecycle import ManagedNode, NotReadyError
from vla_nodes.nodes.process import run_node
from vla_nodes.nodes.realtime import fixed_rate, prepare_process, raise_priority
from vla_nodes.nodes.ros_time import SmoothClock
from vla_nodes.nodes.stamps import SECOND, nanoseconds, time_message
from vla_nodes.observation.errors import JointError
from vla_nodes.observation.joints import JointReader

PRIORITY = 80  # of SCHED_FIFO
ANSWER_TIMEOUT = 1.0  # s that a callback waits for the loop
WATCH_PERIOD = 0.5  # s between looks for other publishers of commands
PERCENTILES_WINDOW = 30.0  # s over which punctuality is reported
MOST_SAMPLES = 3000  # so that reporting it does not itself hold the loop up


class Commander(ManagedNode[CommanderParameters]):
    """The lifecycle node; see the module."""

    def __init__(self) -> None:
        self._privileges = raise_priority(PRIORITY, lock_memory=True)
        super().__init__("commander", CommanderParameters)
        self._inbox: deque[Callable[[], None]] = deque()
        self._state_arrived = threading.Event()
        self._loop: threading.Thread | None = None
        self._looping = False
        self._pressed = {"button": False, "service": False}
        self._stopped = False
        self._given_up = False

    # --- lifecycle ------------------------------------------------------------------------

    def configure(self, parameters: CommanderParameters) -> None:
        """Load the contract, subscribe, and start the loop, which holds still while inactive."""
        contract = load_contract(parameters.contract)
        sim_time = self.get_parameter("use_sim_time").value
        shared = {f.name for f in fields(CommanderParameters)} & {
            f.name for f in fields(MotionParameters)
        }
        motion = {name: getattr(parameters, name) for name in shared}
        self._core = MotionCore(contract, MotionParameters(sim_time=sim_time, **motion))
        self._smooth_clock = SmoothClock() if sim_time and not parameters.lockstep else None
        self._stamped = contract.timeline == "header"
        self._measured_index = np.array(contract.measured_index)
        self._states: dict[str, tuple[int, np.ndarray]] = {}
        self._state_names = [source.name for source in contract.states]
        self._task, self._task_at = Task(), 0
        self._estop_at = time.monotonic()
        self._inbox.clear()
        if self._stopped or any(self._pressed.values()):
            # An e-stop or a trip outlives the core that it stopped.
            self._core.estop(True)
            self._core.estop(any(self._pressed.values()))
        self._rate = RateMeter()
        samples = min(MOST_SAMPLES, round(PERCENTILES_WINDOW * parameters.rate))
        # The slowest joint from full speed to rest, and a little.
        self._rest_timeout = 1.0 + max(j.velocity / j.acceleration for j in contract.limits)
        self._period, self._late = Percentiles(samples), Percentiles(samples)
        self._last_tick = self._tick_ros = 0
        self._outputs = command_outputs(self, contract.actions, 1.0 / parameters.rate)
        self._heard = {source.topic: -math.inf for source in contract.states}
        for source in contract.states:
            on_state = partial(self._on_state, source, JointReader(source))
            self.subscribe(JointState, source.topic, on_state, qos.sensor(source.qos))
        self.subscribe(ActionChunk, topics.CHUNK, self._on_chunk, qos.NEWEST)
        self.subscribe(Task, topics.TASK, self._on_task, qos.NEWEST)
        subscribe_estop(self, self._on_estop)
        self.create_service(SetBool, "~/estop", self._on_estop_service)
        self.steady_timer(WATCH_PERIOD, self._watch)
        self._looping = True
        self._loop = threading.Thread(target=self._run_loop, name="control", daemon=True)
        self._loop.start()

    def waiting_for(self) -> str:
        """State sources that nothing was heard from lately; others who command the robot."""
        oldest = time.monotonic() - self.parameters.measured_timeout
        silent = [topic for topic, heard in self._heard.items() if heard < oldest]
        if silent:
            return "joint states on " + ", ".join(silent)
        if self._estop_is_silent():
            return f"a message on {topics.ESTOP}"
        others = self._other_publishers()
        return f"the only commander to be this one: {others}" if others else ""

    def activate(self) -> None:
        """Begin to hold where the robot is.

        Raises:
            NotReadyError: Nobody knows where that is.
        """
        prepare_process()
        if refusal := self._ask(lambda: self._core.activate(self._tick_ros, self._last_tick)):
            raise NotReadyError(f"cannot hold the robot: {refusal}")

    def deactivate(self) -> None:
        """Bring the robot to rest; the last command on the wire has zero velocity.

        Raises:
            TimeoutError: It did not come to rest in time.
        """
        self._ask(self._core.deactivate)
        give_up = time.monotonic() + self._rest_timeout
        while not self._core.at_rest:
            if self._loop is None or not self._loop.is_alive():
                return  # It said so when it ended, and has sent its last command.
            if time.monotonic() > give_up:
                raise TimeoutError(
                    f"the robot did not come to rest within {self._rest_timeout:.1f} s"
                )
            time.sleep(1.0 / self.parameters.rate)
            if self.parameters.lockstep:
                # The simulation's joint states cannot get in while this callback waits.
                self._ask(self._tick_on)
        # One more tick, so that the command that says so has been sent.
        self._ask(lambda: None)

    def cleanup(self) -> None:
        """End the loop."""
        if self._loop is not None:
            self._stopped = self._core.state in (State.ESTOPPED, State.TRIPPED)
        self._looping = False
        self._state_arrived.set()
        if self._loop is not None:
            self._loop.join(ANSWER_TIMEOUT)
            self._loop = None

    def health(self) -> Health:
        """Punctuality, state, and everything that was refused."""
        core = self._core.health()
        values: dict[str, object] = {
            "motion": core.state.name.lower(),
            "command_hz": self._rate.hz(time.monotonic_ns()),
            **self._period.values("period"),
            **self._late.values("late"),
            "limited_share": core.limited_share,
            "real_time": self._privileges,
            **{f"count: {name}": count for name, count in sorted(core.counters.items())},
        }
        return Health(OK, core.fault or core.state.name.lower(), values)

    def working_fault(self) -> str:
        """A latched stop, or a goal that the core has given up, for as long as it lasts."""
        stopped = self._core.state in (State.ESTOPPED, State.TRIPPED)
        return self._core.health().fault if stopped or self._given_up else ""

    # --- callbacks: leave it in the inbox -----------------------------------------------------

    def _on_state(self, source: StateSource, reader: JointReader, message: JointState) -> None:
        now = time.monotonic_ns()
        try:
            vector = reader.read(message)
        except JointError:
            # The core notices by age; a robot that sends garbage is as good as silent.
            self._inbox.append(lambda: self._core.measure([], 0, now))
            return
        self._heard[source.topic] = now * 1e-9
        stamp = nanoseconds(message.header.stamp) if self._stamped else self.ros_now()
        self._inbox.append(lambda: self._take_state(source.name, stamp, vector, now))
        self._state_arrived.set()

    def _on_chunk(self, message: ActionChunk) -> None:
        offered = offered_chunk(message)
        self._inbox.append(lambda: self._take_chunk(offered))

    def _on_task(self, message: Task) -> None:
        received = time.monotonic_ns()
        self._inbox.append(lambda: self._take_task(message, received))

    def _on_estop(self, message: Bool) -> None:
        self._estop_at = time.monotonic()
        pressed = message.data
        self._inbox.append(lambda: self._take_estop("button", pressed))

    def _on_estop_service(self, request: Any, response: Any) -> Any:
        """True presses; false releases and resets, which is possible at rest only.

        A button that is still pressed is not released by this service.
        """
        if request.data:
            self._inbox.append(lambda: self._take_estop("service", True))
            response.success, response.message = True, "e-stop pressed"
            return response

        def reset() -> str | None:
            self._take_estop("service", False)
            return self._core.reset()

        refusal = self._ask(reset)
        response.success = refusal is None
        response.message = refusal or "reset"
        return response

    def _watch(self) -> None:
        """Look for other publishers of commands."""
        others = self._other_publishers() if self.is_active else ""
        if others:
            self._inbox.append(lambda: self._core.trip(others))

    def _estop_is_silent(self) -> bool:
        timeout = self.parameters.estop_timeout
        return timeout > 0 and time.monotonic() - self._estop_at > timeout

    def _other_publishers(self) -> str:
        """Who else publishes commands, in words; empty when nobody does."""
        mine = (self.get_name(), self.get_namespace())
        for output in self._outputs:
            publishers = self.get_publishers_info_by_topic(output.topic)
            names = [(info.node_name, info.node_namespace) for info in publishers]
            if mine in names:
                names.remove(mine)  # One of that name is this node, a second one is not.
            if names:
                name, namespace = names[0]
                return f"{namespace.rstrip('/')}/{name} also publishes {output.topic}"
        return ""

    def _ask(self, job: Callable[[], str | None]) -> str | None:
        """Have the loop do something and wait for its answer; it is done in time or never."""
        done = threading.Event()
        claim = threading.Lock()
        answer: list[str | None] = []

        def run_job() -> None:
            if claim.acquire(blocking=False):
                answer.append(job())
                done.set()

        self._inbox.append(run_job)
        self._state_arrived.set()
        if not done.wait(ANSWER_TIMEOUT) and claim.acquire(blocking=False):
            return "the control loop does not answer"
        done.wait()
        return answer[0]

    # --- the loop -------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        try:
            if self.parameters.lockstep:
                while self._looping:
                    self._state_arrived.wait(1.0)
                    self._state_arrived.clear()
                    self._lockstep_tick()
            else:
                fixed_rate(self.parameters.rate, self._fixed_rate_tick, lambda: self._looping)
        except Exception:
            self.fail(f"the control loop failed\n{traceback.format_exc()}")
            self._core.halt()
            if self._core.command.publish:
                self._send(self._tick_ros)

    def _fixed_rate_tick(self, steady: int, late: int) -> None:
        ros = self.ros_now()
        self._late.add(late * 1e-9)
        self._tick(self._smooth_clock.update(ros, steady) if self._smooth_clock else ros, steady)

    def _lockstep_tick(self) -> None:
        """Tick at the stamp of the newest joint state, if there is a newer one."""
        self._tick_ros = self._last_tick
        self._empty_inbox()
        if not self._states:
            return
        stamp = min(stamp for stamp, _ in self._states.values())
        if stamp < self._last_tick - SECOND:
            self.fail("simulated time went back")
        elif stamp > self._last_tick:
            self._tick(stamp, stamp)

    def _tick_on(self) -> None:
        """Tick a period on without the simulation."""
        stamp = self._last_tick + round(1e9 / self.parameters.rate)
        self._tick(stamp, stamp)

    def _tick(self, ros: int, steady: int) -> None:
        self._tick_ros = ros
        if self._last_tick:
            self._period.add((steady - self._last_tick) * 1e-9)
        self._last_tick = steady
        self._empty_inbox()
        if self.parameters.lockstep:
            self._renew_in_lockstep()
        if self._estop_is_silent():
            self._take_estop("button", True)
        command = self._core.tick(ros, steady)
        self._given_up = self.goal not in (Task.GOAL_NONE, self._core.goal)
        self.progress += 1
        if command.publish:
            self._send(ros)

    def _send(self, ros: int) -> None:
        stamp = time_message(ros)
        for output in self._outputs:
            output.publish(self._core.command, stamp)
        self._rate.event(time.monotonic_ns())

    def _empty_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _take_state(self, name: str, stamp: int, vector: np.ndarray, received: int) -> None:
        """Measure when the oldest of the sources has moved on."""
        self._states[name] = (stamp, vector)
        if len(self._states) < len(self._state_names):
            return
        full = np.concatenate([self._states[source][1] for source in self._state_names])
        oldest = min(stamp for stamp, _ in self._states.values())
        steady = oldest if self.parameters.lockstep else received
        self._core.measure(full[self._measured_index], oldest, steady)

    def _take_chunk(self, offered: OfferedChunk) -> None:
        # Both clocks as they were read together, at this tick.
        self._core.offer(offered, self._tick_ros, self._last_tick)

    def _take_task(self, task: Task, received: int) -> None:
        self._core.lease(task.goal, self._last_tick if self.parameters.lockstep else received)
        self._task, self._task_at = task, received
        self.goal = task.goal

    def _take_estop(self, source: str, pressed: bool) -> None:
        self._pressed[source] = pressed
        self._core.estop(any(self._pressed.values()))

    def _renew_in_lockstep(self) -> None:
        """The lease runs in real time, while the core lives in the simulation's."""
        age = (time.monotonic_ns() - self._task_at) * 1e-9
        if age < self.parameters.lease_timeout:
            self._core.lease(self._task.goal, self._last_tick)


def offered_chunk(message: ActionChunk) -> OfferedChunk:
    """A message as the core takes it; nothing is checked here."""
    stamp = nanoseconds(message.header.stamp)
    points = message.trajectory.points
    return OfferedChunk(
        stamp_ns=stamp,
        goal=message.goal,
        sequence=message.sequence,
        joints=message.trajectory.joint_names,
        positions=[point.positions for point in points],
        due_ns=[stamp + nanoseconds(point.time_from_start) for point in points],
        relative=message.relative,
        # A verdict that is not known here is no leave to move.
        rejected=message.verdict
        not in (ActionChunk.VERDICT_UNCHECKED, ActionChunk.VERDICT_ACCEPTED),
    )


def main() -> None:
    """Entry point of the process."""
    run_node(Commander)


if __name__ == "__main__":
    main()
