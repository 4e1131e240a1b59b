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
    hold = arm.joint_positions
    old = new = _Chunk(start, np.array([hold]), hold, timing.dt)
    arriving: list[tuple[float, _Chunk]] = []
    commands, measured = [hold], [hold]
    next_plan, switched = start, start - timing.fade
    while (now := arm.time) - start < timing.limit:
        if now >= next_plan - 1e-9:
            if arm.task_done(task):
                break
            state = arm.joint_positions
            targets = planner(state, arm.scene_vector(), task)
            arriving.append((now + timing.delay, _Chunk(now, targets, state, timing.dt)))
            next_plan += timing.replan
        if arriving and now >= arriving[0][0] - 1e-9:
            old, new, switched = new, arriving.pop(0)[1], now
        due = now + TICK
        weight = min(1.0, (due - switched) / timing.fade) if timing.fade else 1.0
        command = (1.0 - weight) * old.at(due) + weight * new.at(due)
        measured.append(arm.joint_positions)
        arm.command(command, (command - commands[-1]) / TICK)
        commands.append(command)
        arm.advance(round(TICK / TIMESTEP))
    return Outcome(arm.task_done(task), arm.time - start, np.array(commands), np.array(measured))


class _Chunk:
    """Targets that are due at fixed times."""

    def __init__(self, stamp: float, targets: np.ndarray, state: np.ndarray, dt: float) -> None:
        self._times = stamp + dt * np.arange(len(targets) + 1)
        self._positions = np.vstack([state, targets])

    def at(self, time: float) -> np.ndarray:
        """Linearly interpolated (6,); the last target holds afterwards."""
        return np.array([np.interp(time, self._times, column) for column in self._positions.T])
