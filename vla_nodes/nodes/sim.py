# SPDX-License-Identifier: Apache-2.0
"""The simulated arm as a robot driver: joint states, images and /clock out, trajectories in.

The physics runs in a thread of its own. In real time it keeps an absolute pace and moves on
with whatever command is newest; in lock step it takes one control period for each command, as
fast as the commander answers, and falls back to real time while nobody does.

The node also knows the truth, and so stands in for a value monitor (``publish_value``). For
demonstrations and drills it disturbs itself when asked: ``~/knock`` and ``~/block``.
"""

import contextlib
import math
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory
from vla_interfaces.msg import Subtask, Task, ValueEstimate
from vla_interfaces.srv import ResetSimulation

from vla_nodes.contract import Contract, load_contract
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.diagnostics import OK, WARN, Health, RateMeter
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.parameters import ParameterError, parameter
from vla_nodes.nodes.process import run_node
from vla_nodes.nodes.stamps import nanoseconds, time_message
from vla_nodes.observation.codecs import fill_image
from vla_nodes.sim.arm import TabletopArm
from vla_nodes.sim.expert_policy import SCENE_SOURCE
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.overview import OverviewRenderer
from vla_nodes.sim.progress import ProgressMonitor
from vla_nodes.sim.scene import JOINTS, TIMESTEP

COMMAND_TIMEOUT = 0.2  # s without a command after which the arm stops by itself
LOCKSTEP_PATIENCE = 1.0  # s that lock step waits for a command before falling back to real time
REQUEST_TIMEOUT = 5.0  # s that a request waits for the physics thread
STOP_TIMEOUT = 3.0  # s that deactivation waits for the physics thread
NICENESS = -5
VALUE_RATE = 10.0  # Hz
SLOW = 0.8  # of real time, below which the simulation says so


@dataclass(frozen=True)
class SimParameters:
    """Parameters of the simulated arm."""

    contract: str = parameter("", "Path of the contract, YAML; its joints must be the arm's")
    seed: int = parameter(0, "Seed of the first table", minimum=0)
    cubes: int = parameter(2, "Cubes on the table", minimum=0, maximum=4)
    distractors: int = parameter(0, "Things that no task names", minimum=0, maximum=4)
    light_jitter: float = parameter(0.0, "Largest relative change of the lights", minimum=0.0)
    camera_jitter: float = parameter(0.0, "Largest shift of the front camera, m", minimum=0.0)
    control_rate: float = parameter(
        100.0, "Joint states per second, and ticks of lock step, Hz", minimum=20.0, maximum=200.0
    )
    image_rate: float = parameter(20.0, "Images per second of each camera, Hz", minimum=1.0)
    overview_rate: float = parameter(
        0.0, "Images per second of the camera for people, on /overview/image, Hz", minimum=0.0
    )
    overview_width: int = parameter(480, "Pixels", minimum=16, maximum=1920)
    overview_height: int = parameter(360, "Pixels", minimum=16, maximum=1080)
    publish_clock: bool = parameter(True, "Publish /clock; otherwise stamps are the system's time")
    lockstep: bool = parameter(False, "Wait for the commander's answer at every tick")
    publish_value: bool = parameter(True, "Publish the task's true progress as its value")


class SimNode(ManagedNode[SimParameters]):
    """The lifecycle node; see the module."""

    def __init__(self) -> None:
        # A robot has a computer of its own: what else runs here must not slow it down.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        super().__init__("sim", SimParameters)
        self._thread: threading.Thread | None = None
        self._renderer: OverviewRenderer | None = None
        self._running = False
        self._arrived = threading.Condition()
        self._command: JointTrajectory | None = None
        self._command_at = -math.inf
        self._jobs: list[Callable[[], None]] = []
        self._stamp = 0
        self._task, self._subtask = Task(), Subtask()
        self._refused = 0

    # --- lifecycle ------------------------------------------------------------------------

    def configure(self, parameters: SimParameters) -> None:
        """Create the topics; the arm itself is made by the thread that renders it."""
        self._contract = load_contract(parameters.contract)
        self._check(self._contract, parameters)
        self._period = 1.0 / parameters.control_rate
        self._rate = RateMeter()
        action = self._contract.actions[0]
        self._clock_publisher = self.create_publisher(Clock, "/clock", qos.NEWEST)
        # Reliable publishers serve subscribers of either kind.
        self._joint_states = self.publish_on(JointState, self._contract.states[0].topic, qos.SHARED)
        self._scene = self.publish_on(JointState, SCENE_SOURCE.topic, qos.SHARED)
        self._images = {
            camera.topic: self.publish_on(Image, camera.topic, qos.NEWEST)
            for camera in self._contract.cameras
        }
        self._overview = self.publish_on(Image, "/overview/image", qos.NEWEST)
        self._values = self.publish_on(ValueEstimate, topics.VALUE, qos.NEWEST)
        self.subscribe(JointTrajectory, action.topic, self._on_command, qos.NEWEST)
        self.subscribe(Task, topics.TASK, self._on_task, qos.NEWEST)
        self.subscribe(Subtask, topics.SUBTASK, self._on_subtask, qos.LATCHED)
        self.create_service(ResetSimulation, topics.RESET_SIMULATION, self._on_reset)
        self.create_service(Trigger, "~/knock", self._on_knock)
        self.create_service(SetBool, "~/block", self._on_block)

    @staticmethod
    def _check(contract: Contract, parameters: SimParameters) -> None:
        for names, what in (
            (contract.states[0].joints, "states"),
            (contract.actions[0].joints, "actions"),
        ):
            if set(names) != set(JOINTS):
                raise ParameterError(
                    f"contract: the {what} name the joints {', '.join(names)}; "
                    f"the simulated arm has {', '.join(JOINTS)}"
                )
        if parameters.lockstep and not parameters.publish_clock:
            raise ParameterError("lockstep needs publish_clock")
        if parameters.lockstep and contract.timeline != "header":
            raise ParameterError("lockstep needs a contract with timeline: header")
        steps = 1.0 / (parameters.control_rate * TIMESTEP)
        if abs(steps - round(steps)) > 1e-9:
            raise ParameterError(
                f"control_rate is {parameters.control_rate} Hz; its period must be a multiple of "
                f"the physics' {TIMESTEP} s"
            )
        if max(parameters.image_rate, parameters.overview_rate) > parameters.control_rate:
            raise ParameterError("image_rate and overview_rate must not exceed control_rate")

    def activate(self) -> None:
        """Start the physics."""
        self._running = True
        self._jobs.clear()
        self._command, self._command_at = None, -math.inf
        if self.parameters.overview_rate:
            self._renderer = OverviewRenderer(
                self.parameters.overview_width,
                self.parameters.overview_height,
                lambda picture, stamp: self._publish_image(
                    self._overview, "overview", picture, time_message(stamp)
                ),
                lambda trace: self.fail(f"rendering the overview failed\n{trace}"),
            )
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop the physics."""
        self._running = False
        with self._arrived:
            self._arrived.notify()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT)
        self._thread = None
        if self._renderer is not None:
            self._renderer.stop()
            self._renderer = None

    def health(self) -> Health:
        """Speed of the simulation and refused commands."""
        hz = self._rate.hz(time.monotonic_ns())
        values = {
            "tick_hz": hz,
            "realtime_factor": hz * self._period,
            "refused_commands": self._refused,
        }
        slow = not self.parameters.lockstep and 0 < hz * self._period < SLOW
        message = f"runs at {hz * self._period:.2f} of real time" if slow else "ok"
        return Health(WARN if slow else OK, message, values)

    # --- callbacks ----------------------------------------------------------------------------

    def _on_command(self, message: JointTrajectory) -> None:
        point = message.points[-1] if message.points else None
        if (
            point is None
            or sorted(message.joint_names) != sorted(JOINTS)
            or not np.isfinite([*point.positions, *point.velocities]).all()
            or not len(point.positions) == len(point.velocities) == len(JOINTS)
        ):
            self._refused += 1
            return
        with self._arrived:
            self._command, self._command_at = message, time.monotonic()
            self._arrived.notify()

    def _on_task(self, message: Task) -> None:
        self._task = message

    def _on_subtask(self, message: Subtask) -> None:
        self._subtask = message

    def _on_reset(self, request: Any, response: Any) -> Any:
        def lay() -> str:
            self._lay_table(request.seed, request.cubes or self.parameters.cubes)
            return ", ".join(f"{colour} cube" for colour in self._arm.colours)

        if request.cubes > 4:
            response.success, response.message = False, "cubes must be at most 4"
            return response
        return self._answer(response, lay)

    def _on_knock(self, _request: Any, response: Any) -> Any:
        return self._answer(response, lambda: f"the {self._arm.knock()} cube")

    def _on_block(self, request: Any, response: Any) -> Any:
        def block() -> str:
            self._arm.block(request.data)
            return "blocked" if request.data else "free"

        return self._answer(response, block)

    def _answer(self, response: Any, do: Callable[[], str]) -> Any:
        """Have the physics thread do something between two ticks, and answer what comes of it."""
        if not self.is_active:
            response.success, response.message = False, "the simulation is not active"
            return response
        outcome: list[tuple[bool, str]] = []
        done = threading.Event()

        def job() -> None:
            try:
                outcome.append((True, do()))
            except ValueError as error:
                outcome.append((False, str(error)))
            done.set()

        with self._arrived:
            self._jobs.append(job)
            self._arrived.notify()
        answered = done.wait(REQUEST_TIMEOUT)
        late = (False, "the physics did not answer")
        response.success, response.message = outcome[0] if answered else late
        return response

    # --- the physics thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._arm = TabletopArm()
            with contextlib.closing(self._arm):
                self._monitor = ProgressMonitor(self._arm)
                self._lay_table(self.parameters.seed, self.parameters.cubes)
                self._simulate()
        except Exception:
            self.fail(f"the simulation failed\n{traceback.format_exc()}")

    def _simulate(self) -> None:
        steps = round(self._period / TIMESTEP)
        # Time begins at the system's: started anew, real-time simulation never goes back.
        self._stamp = time.time_ns()
        deadline = time.monotonic()
        tick = 0
        while self._running:
            while self._jobs:
                self._jobs.pop(0)()
            self._publish(tick)
            answered = self._wait_for_command() if self.parameters.lockstep else False
            self._apply_command()
            self._arm.advance(steps)
            self._stamp += round(self._period * 1e9)
            tick += 1
            self.progress += 1
            self._rate.event(time.monotonic_ns())
            now = time.monotonic()
            if answered:
                deadline = now
                continue
            # Ticks that come late are not caught up.
            deadline = max(deadline + self._period, now - self._period)
            time.sleep(max(0.0, deadline - now))

    def _lay_table(self, seed: int, cubes: int) -> None:
        self._arm.reset(
            seed,
            LayoutOptions(
                cubes=cubes,
                distractors=self.parameters.distractors,
                light_jitter=self.parameters.light_jitter,
                camera_jitter=self.parameters.camera_jitter,
            ),
        )
        with self._arrived:
            self._command = None

    def _wait_for_command(self) -> bool:
        """Whether the commander answered the present stamp; False without one around."""
        if time.monotonic() - self._command_at > LOCKSTEP_PATIENCE:
            return False
        with self._arrived:
            return self._arrived.wait_for(self._has_answer, LOCKSTEP_PATIENCE)

    def _has_answer(self) -> bool:
        if not self._running or self._jobs:
            return True
        command = self._command
        return command is not None and nanoseconds(command.header.stamp) >= self._stamp

    def _apply_command(self) -> None:
        with self._arrived:
            command, silent = self._command, time.monotonic() - self._command_at
        if command is None:
            return
        if silent > COMMAND_TIMEOUT:
            # As a real driver does: stop where the arm is.
            self._arm.command(self._arm.joint_positions)
            with self._arrived:
                self._command = None if self._command is command else self._command
            return
        point = command.points[-1]
        order = [command.joint_names.index(name) for name in JOINTS]
        self._arm.command(np.asarray(point.positions)[order], np.asarray(point.velocities)[order])

    # --- publishing -------------------------------------------------------------------------------

    def _publish(self, tick: int) -> None:
        """What a tick shows; images, value and overview at their own rates."""
        if not self.parameters.publish_clock:
            self._stamp = time.time_ns()
        stamp = time_message(self._stamp)
        if self.parameters.publish_clock:
            self._clock_publisher.publish(Clock(clock=stamp))
        rate = self.parameters.control_rate
        # Images first: an observation needs a state that is not older than its images.
        if tick % round(rate / self.parameters.image_rate) == 0:
            for camera in self._contract.cameras:
                picture = self._arm.render(camera.name, camera.width, camera.height)
                self._publish_image(self._images[camera.topic], camera.name, picture, stamp)
        overview_rate = self.parameters.overview_rate
        if self._renderer and tick % round(rate / overview_rate) == 0:
            self._renderer.show(self._arm.snapshot(), self._stamp)
        self._publish_scene(stamp)
        if self.parameters.publish_value and tick % round(rate / VALUE_RATE) == 0:
            self._publish_value(stamp)
        joints = JointState(
            name=list(JOINTS),
            position=self._arm.joint_positions,
            velocity=self._arm.joint_velocities,
        )
        joints.header.stamp = stamp
        self._joint_states.publish(joints)

    def _publish_image(self, publisher: Any, frame: str, picture: np.ndarray, stamp: Any) -> None:
        message = Image()
        message.header.stamp, message.header.frame_id = stamp, frame
        fill_image(message, picture)
        publisher.publish(message)

    def _publish_scene(self, stamp: Any) -> None:
        message = JointState(name=SCENE_SOURCE.joints, position=self._arm.scene_vector())
        message.header.stamp = stamp
        self._scene.publish(message)

    def _publish_value(self, stamp: Any) -> None:
        task = self._task
        if task.goal == Task.GOAL_NONE:
            return
        subtask = self._subtask.subtask if self._subtask.goal == task.goal else ""
        progress = self._monitor.update(task.goal, task.text, subtask, self._stamp * 1e-9)
        message = ValueEstimate(
            goal=task.goal,
            task=task.text,
            subtask=subtask,
            value=progress.value,
            subtask_value=math.nan,
            entropy=math.nan,
            trend=progress.trend,
            finished=progress.finished,
            subtask_finished=progress.subtask_finished,
            stalled=progress.stalled,
        )
        message.header.stamp = stamp
        self._values.publish(message)


def main() -> None:
    """Entry point of the process."""
    run_node(SimNode)


if __name__ == "__main__":
    main()
