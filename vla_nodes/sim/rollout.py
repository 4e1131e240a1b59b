# SPDX-License-Identifier: Apache-2.0
"""Closed loop in one process: a planner drives the arm the way a real-time controller would.

Every so often the planner sees the arm, its chunk arrives some time later, and what is due by
then is skipped. In between the command is interpolated in time, at 100 Hz, with velocities, and a
new chunk is faded in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_nodes.sim.arm import TabletopArm
from vla_nodes.sim.scene import TIMESTEP

Planner = Callable[[np.ndarray, np.ndarray, str], np.ndarray]

TICK = 0.01  # s between commands


@dataclass(frozen=True)
class Timing:
    """When the loop does what, in seconds.

    Attributes:
        replan: Between observations.
        delay: From an observation to its chunk's arrival.
        fade: From one chunk to the next.
        dt: Between a chunk's targets.
        limit: After which a rollout has failed.
    """

    replan: float = 0.2
    delay: float = 0.1
    fade: float = 0.1
    dt: float = 1 / 20
    limit: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a rollout came to.

    Attributes:
        success: Whether the task was done before the limit.
        seconds: Simulated time it took.
        commands: Commanded joint positions (N, 6), one per tick.
        measured: Joint positions (N, 6) measured right before each command.
    """

    success: bool
    seconds: float
    commands: np.ndarray
    measured: np.ndarray

    @property
    def peak_velocity(self) -> np.ndarray:
        """Largest speed of the command per joint (6,)."""
        return np.abs(np.diff(self.commands, axis=0)).max(axis=0) / TICK

    @property
    def peak_acceleration(self) -> np.ndarray:
        """Largest acceleration of the command per joint (6,), over four ticks."""
        velocity = (self.commands[4:] - self.commands[:-4]) / (4 * TICK)
        return np.abs(velocity[4:] - velocity[:-4]).max(axis=0) / (4 * TICK)


def rollout(
    arm: TabletopArm,
    planner: Planner,
    task: str,
    timing: Timing = Timing(),
) -> Outcome:
    """Drive the arm from where it is until the task is done or time is up.

    Args:
        arm: Already reset.
        planner: From joint positions (6,), scene vector and task to targets (T, 6), the i-th due
            (i + 1) dt after the observation.
        task: As ``tasks.parse_task`` understands it.
        timing: Of the loop.
    """
    start = arm.time
    pilot = Pilot(arm, planner, task, timing)
    commands, measured = [arm.joint_positions], [arm.joint_positions]
    while arm.time - start < timing.limit:
        if pilot.replans and arm.task_done(task):
            break
        command = pilot.command()
        measured.append(arm.joint_positions)
        arm.command(command, (command - commands[-1]) / TICK)
        commands.append(command)
        arm.advance(round(TICK / TIMESTEP))
    return Outcome(arm.task_done(task), arm.time - start, np.array(commands), np.array(measured))


class Pilot:
    """Makes a planner's late chunks into one command per tick, from where the arm is now.

    Args:
        arm: That is driven.
        planner: As for ``rollout``.
        task: As for ``rollout``.
        timing: Of the loop; its limit is not heeded.
    """

    def __init__(self, arm: TabletopArm, planner: Planner, task: str, timing: Timing) -> None:
        self._arm, self._planner, self._task, self._timing = arm, planner, task, timing
        hold = arm.joint_positions
        self._old = self._new = _Chunk(arm.time, np.array([hold]), hold, timing.dt)
        self._arriving: list[tuple[float, _Chunk]] = []
        self._next_plan, self._switched = arm.time, arm.time - timing.fade

    @property
    def replans(self) -> bool:
        """Whether the next command comes with a new observation."""
        return self._arm.time >= self._next_plan - 1e-9

    def command(self) -> np.ndarray:
        """The joint positions (6,) due one tick from now; to be called once per tick."""
        now, timing = self._arm.time, self._timing
        if self.replans:
            state = self._arm.joint_positions
            targets = self._planner(state, self._arm.scene_vector(), self._task)
            self._arriving.append((now + timing.delay, _Chunk(now, targets, state, timing.dt)))
            self._next_plan += timing.replan
        if self._arriving and now >= self._arriving[0][0] - 1e-9:
            self._old, self._new, self._switched = self._new, self._arriving.pop(0)[1], now
        due = now + TICK
        weight = min(1.0, (due - self._switched) / timing.fade) if timing.fade else 1.0
        return (1.0 - weight) * self._old.at(due) + weight * self._new.at(due)


class _Chunk:
    """Targets that are due at fixed times."""

    def __init__(self, stamp: float, targets: np.ndarray, state: np.ndarray, dt: float) -> None:
        self._times = stamp + dt * np.arange(len(targets) + 1)
        self._positions = np.vstack([state, targets])

    def at(self, time: float) -> np.ndarray:
        """Linearly interpolated (6,); the last target holds afterwards."""
        return np.array([np.interp(time, self._times, column) for column in self._positions.T])
