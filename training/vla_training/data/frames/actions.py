# SPDX-License-Identifier: Apache-2.0
"""Actions as a bag holds them: what a leader arm showed, or what a controller was told."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from vla_nodes.contract.actions import JOINT_TRAJECTORY
from vla_nodes.contract.schema import ActionSource, Recorded, StateSource, Timeline
from vla_nodes.contract.streams import JOINT_STATE
from vla_nodes.observation.buffers import StateBuffer, stamp_fault
from vla_nodes.observation.errors import JointError
from vla_nodes.observation.health import StreamMonitor
from vla_nodes.observation.joints import JointReader, Vector
from vla_nodes.observation.observation import NotReady
from vla_training.data.frames.commands import (
    Command,
    CommandBuffer,
    read_array,
    read_trajectory,
)


class ActionSample(NamedTuple):
    """An action at a time.

    Attributes:
        values: (A,) float64, in radians where the source says degrees.
        age: Seconds from the sample before to the time; for a command from its last point, and
            0 while it has points to come.
        skew: Seconds from the time to the nearest sample used; negative for an earlier one.
    """

    values: Vector
    age: float
    skew: float


def recorded_actions(source: ActionSource) -> Recorded:
    """Where a bag holds a source's actions: what the contract says, or else its command topic."""
    return source.recorded or Recorded(source.topic, source.type, source.joints, units=source.units)


class ActionStream:
    """The actions of one controller.

    A ``JointState`` is interpolated like any state. Of a ``JointTrajectory`` the newest message
    whose stamp is not after the time counts, at the position that its own points have then.
    A trajectory without a stamp starts when it was received, as controllers take it. Of a
    ``Float64MultiArray`` the newest received not after the time counts.

    A sample that cannot be used is counted. Where it is a command, there is no action from then
    until the next one; so it is after a trajectory without points, which cancels.

    Args:
        source: The controller.
        timeline: Of the contract.
        capacity: Samples that are kept at least.

    Attributes:
        name: As reports have it; that of no state or camera.
        recorded: Where the bag holds the actions.
        reach: How far after a time a sample may lie that the action at that time needs, ns.
        monitor: Counts what was refused.
    """

    def __init__(self, source: ActionSource, timeline: Timeline, capacity: int) -> None:
        self.name = f"actions.{source.name}"
        self.recorded = recorded_actions(source)
        self.monitor = StreamMonitor()
        self._timeline = timeline
        self._max_age = round(self.recorded.max_age * 1e9)
        self._samples: StateBuffer | CommandBuffer
        self._read: Callable[[Any], Any]
        if self.recorded.type == JOINT_STATE:
            self.reach = self._max_age
            self._samples = StateBuffer(len(source.joints), capacity)
            self._read = JointReader(_state_source(self.name, self.recorded)).read
        else:
            self.reach = 0
            self._samples = CommandBuffer(capacity)
            is_trajectory = self.recorded.type == JOINT_TRAJECTORY
            reader = read_trajectory if is_trajectory else read_array
            self._read = partial(reader, recorded=self.recorded)

    @property
    def newest(self) -> int | None:
        """When the newest sample counts from, ns; no later message counts from before that."""
        return self._samples.newest

    def time(self, stamp: int | None, receive: int) -> int:
        """When a message counts from, ns: its stamp, or its receipt where that is what counts."""
        if stamp is None or self._timeline == "receive":
            return receive
        return receive if stamp == 0 and self.recorded.type == JOINT_TRAJECTORY else stamp

    def add(self, message: Any, time: int, receive: int) -> None:
        """Takes a message in that counts from ``time``, ns."""
        self.monitor.receive(receive)
        fault = stamp_fault(time, self.newest, receive)
        if fault is not None:
            self.monitor.fault(fault, f"stamp {time} ns, newest {self.newest} ns")
            if fault != "clock_jump":
                return
            self.clear()
        try:
            sample = self._read(message)
        except JointError as error:
            self.monitor.fault("joints", str(error))
            if isinstance(self._samples, StateBuffer):
                return
            sample = Command.none(str(error))
        self._samples.append(time, sample)

    def clear(self) -> None:
        """Forgets every sample; the figures stay."""
        self._samples.clear()

    def at(self, time: int) -> ActionSample | NotReady:
        """The action at a time, or why there is none."""
        before, after = self._samples.bracket(time)
        if before is None:
            detail = "nothing was received" if self.newest is None else "no sample is as old"
            return NotReady(self.name, "missing", detail)
        if after is None:
            return NotReady(self.name, "pending", "its newest sample is before the time")
        farthest = max(time - before, after - time)
        if farthest > self._max_age:
            limit = f"max_age is {self.recorded.max_age:g} s"
            return NotReady(self.name, "stale", f"{farthest * 1e-9:.3f} s from a sample, {limit}")
        try:
            values = self._samples.interpolate(time)
        except JointError as error:
            return NotReady(self.name, "missing", str(error))
        skew = min(before - time, after - time, key=abs)
        return ActionSample(values, (time - before) * 1e-9, skew * 1e-9)


def _state_source(name: str, recorded: Recorded) -> StateSource:
    """A leader arm as a source of positions."""
    return StateSource(
        name, recorded.topic, recorded.joints, recorded.max_age, units=recorded.units
    )
