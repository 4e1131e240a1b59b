# SPDX-License-Identifier: Apache-2.0
"""Commands that controllers were told, and what they meant at a time."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Recorded
from vla_nodes.observation.buffers import Bracket
from vla_nodes.observation.errors import JointError
from vla_nodes.observation.joints import Vector
from vla_training.data.stamps import SECOND


@dataclass(frozen=True)
class Command:
    """Where joints are to be from a time on.

    Attributes:
        times: (P,) ns from that time, rising.
        positions: (P, A), in radians where the source says degrees.
        error: Why there are no positions; empty where there are.
    """

    times: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]
    error: str = ""

    @classmethod
    def none(cls, error: str) -> "Command":
        """A command that leaves nothing to do."""
        return cls(np.zeros(1, np.int64), np.empty((1, 0)), error)


def read_trajectory(message: Any, recorded: Recorded) -> Command:
    """Reads a ``trajectory_msgs/msg/JointTrajectory``, its joints in any order.

    Raises:
        JointError: A joint is missing or there twice, a point has another number of positions
            than there are joints, a value is not finite, or the points' times do not rise.
    """
    if not message.points:
        return Command.none("the trajectory has no points, which cancels")
    names = list(message.joint_names)
    if len(set(names)) < len(names):
        raise JointError("a joint is in the trajectory twice")
    for joint in recorded.joints:
        if joint not in names:
            raise JointError(f"joint {joint!r} is missing, found {', '.join(names) or 'no names'}")
    for point in message.points:
        if len(point.positions) != len(names):
            raise JointError(f"a point has {len(point.positions)} values for {len(names)} joints")
    durations = [point.time_from_start for point in message.points]
    times = np.array([d.sec * SECOND + d.nanosec for d in durations], np.int64)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        raise JointError("the times of the points do not rise")
    positions = np.array([point.positions for point in message.points], np.float64)
    return Command(
        times, _radians(positions[:, [names.index(j) for j in recorded.joints]], recorded)
    )


def read_array(message: Any, recorded: Recorded) -> Command:
    """Reads a ``std_msgs/msg/Float64MultiArray``, one value per joint in the contract's order.

    Raises:
        JointError: Another number of values, or one that is not finite.
    """
    if len(message.data) != len(recorded.joints):
        raise JointError(f"{len(message.data)} values for {len(recorded.joints)} joints")
    positions = np.array([message.data], np.float64)
    return Command(np.zeros(1, np.int64), _radians(positions, recorded))


def _radians(positions: npt.NDArray[np.float64], recorded: Recorded) -> npt.NDArray[np.float64]:
    if not np.isfinite(positions).all():
        bad = int(np.argwhere(~np.isfinite(positions))[0][1])
        raise JointError(f"the position of joint {recorded.joints[bad]!r} is not finite")
    return positions * (math.pi / 180.0) if recorded.units == "deg" else positions


class CommandBuffer:
    """The newest commands; at any time the newest that is not after it counts.

    Args:
        capacity: Commands that are kept at least.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._stamps: list[int] = []
        self._commands: list[Command] = []

    @property
    def newest(self) -> int | None:
        """Stamp of the newest command, ns."""
        return self._stamps[-1] if self._stamps else None

    def clear(self) -> None:
        """Forgets every command."""
        self._stamps.clear()
        self._commands.clear()

    def append(self, stamp: int, command: Command) -> None:
        """Adds a command newer than all before; the oldest make room."""
        if len(self._stamps) == 2 * self._capacity:
            del self._stamps[: self._capacity], self._commands[: self._capacity]
        self._stamps.append(stamp)
        self._commands.append(command)

    def bracket(self, stamp: int) -> Bracket:
        """The time up to which the command that counts has points, as both neighbours."""
        index = bisect_right(self._stamps, stamp) - 1
        if index < 0:
            return Bracket(None, None)
        end = min(stamp, self._stamps[index] + int(self._commands[index].times[-1]))
        return Bracket(end, end)

    def interpolate(self, stamp: int) -> Vector:
        """Where the command that counts has the joints at a time.

        Linear between its points, the first one before and the last one after them.

        Returns:
            (A,) float64.

        Raises:
            LookupError: No command is as old.
            JointError: The command has no positions.
        """
        index = bisect_right(self._stamps, stamp) - 1
        if index < 0:
            raise LookupError(f"no command is as old as stamp {stamp} ns")
        command = self._commands[index]
        if command.error:
            raise JointError(command.error)
        offset = stamp - self._stamps[index]
        times, positions = command.times, command.positions
        after = int(times.searchsorted(offset))
        if after == 0 or after == len(times):
            return positions[min(after, len(times) - 1)].copy()
        first, last = int(times[after - 1]), int(times[after])
        low, high = positions[after - 1], positions[after]
        return low + (high - low) * ((offset - first) / (last - first))
