# SPDX-License-Identifier: Apache-2.0
"""The intake: which of the offered chunks is followed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_nodes.control.chunks import (
    OfferedChunk,
    Reason,
    Refusal,
    TimedChunk,
    check_chunk,
    resolve_targets,
)
from vla_nodes.control.lease import GOAL_NONE
from vla_nodes.control.measured import Measured
from vla_nodes.control.parameters import Floats, Joints, MotionParameters


@dataclass(frozen=True)
class Plan:
    """A chunk that is to be followed.

    Attributes:
        targets: (T, A) positions within the limits.
        clamped: (T, A) True where the policy had asked for much more than the limits.
        due_ns: (T,) when each row is due, ROS time.
        received_ns: Monotonic time of receipt.
    """

    targets: Floats
    clamped: NDArray[np.bool_]
    due_ns: NDArray[np.int64]
    received_ns: int


class Intake:
    """Checks offered chunks in turn and remembers the newest observation accepted."""

    def __init__(self, joints: Joints, parameters: MotionParameters, measured: Measured) -> None:
        self._joints = joints
        self._parameters = parameters
        self._measured = measured
        self._newest_ns: int | None = None

    def consider(
        self,
        offered: OfferedChunk,
        goal: int,
        position: Floats,
        held: Floats,
        ros_ns: int,
        steady_ns: int,
    ) -> Plan | Refusal:
        """Make a plan of a chunk, or say why not.

        Args:
            offered: As it arrived.
            goal: Being served.
            position: (A,) commanded now.
            held: (A,) where the joints are sent now.
            ros_ns: The present.
            steady_ns: The present.
        """
        if goal == GOAL_NONE:
            return Refusal(Reason.NO_LEASE, "no goal is being served")
        if offered.goal != goal:
            return Refusal(Reason.WRONG_GOAL, f"serves goal {offered.goal}; the goal is {goal}")
        if offered.rejected:
            return Refusal(Reason.REJECTED, "the energy check did not accept it")
        chunk = check_chunk(offered, self._joints, self._parameters.max_horizon)
        if isinstance(chunk, Refusal):
            return chunk
        if refusal := self._check_times(chunk, ros_ns):
            return refusal
        base = self._measured.at(chunk.stamp_ns) if chunk.relative else None
        if not self._measured.is_fresh(ros_ns, steady_ns):
            return Refusal(Reason.NOT_MEASURED, "the joints were not measured lately")
        if chunk.relative and base is None:
            return Refusal(Reason.NOT_MEASURED, "the joints were not measured at its observation")
        targets, outside = resolve_targets(chunk, self._joints, base, held)
        if refusal := self._check_distance(chunk, targets, position, ros_ns):
            return refusal
        self._newest_ns = chunk.stamp_ns
        span = self._joints.upper - self._joints.lower
        clamped = outside > self._parameters.clamp_tolerance * span
        return Plan(targets, clamped, chunk.due_ns, steady_ns)

    def shift(self, ns: int) -> None:
        """Follow a step of the clock."""
        if self._newest_ns is not None:
            self._newest_ns += ns

    def clear(self) -> None:
        """Forget the newest observation: time has begun anew."""
        self._newest_ns = None

    def _check_times(self, chunk: TimedChunk, ros_ns: int) -> Refusal | None:
        """Refuse observations from the future, the far past or before one already used."""
        age = (ros_ns - chunk.stamp_ns) * 1e-9
        limits = self._parameters
        if age < -limits.max_future:
            text = f"observed {-age:.3f} s in the future; at most {limits.max_future} s is allowed"
            return Refusal(Reason.FUTURE, text)
        if age > limits.max_observation_age:
            text = f"observed {age:.3f} s ago; at most {limits.max_observation_age} s is allowed"
            return Refusal(Reason.TOO_OLD, text)
        if chunk.due_ns[-1] <= ros_ns:
            late = (ros_ns - int(chunk.due_ns[-1])) * 1e-9
            return Refusal(Reason.PAST, f"its last target was due {late:.3f} s ago")
        if self._newest_ns is not None and chunk.stamp_ns <= self._newest_ns:
            if chunk.stamp_ns == self._newest_ns:
                return Refusal(Reason.DUPLICATE, "this observation is already followed")
            late = (self._newest_ns - chunk.stamp_ns) * 1e-9
            return Refusal(Reason.OUT_OF_ORDER, f"observed {late:.3f} s before the last one")
        return None

    def _check_distance(
        self, chunk: TimedChunk, targets: Floats, position: Floats, ros_ns: int
    ) -> Refusal | None:
        """Refuse a first target that the present command cannot reach in about its time."""
        joints = self._joints
        first = int(np.searchsorted(chunk.due_ns, ros_ns, side="right"))
        lead = (int(chunk.due_ns[first]) - ros_ns) * 1e-9
        # A joint found outside its limits is on its way to the nearer of them.
        distance = np.abs(targets[first] - np.clip(position, joints.lower, joints.upper))
        # A policy could not know where the robot has gone, or not gone, since the observation.
        age = max(0, ros_ns - chunk.stamp_ns) * 1e-9
        allowed = joints.velocity * (lead + age + self._parameters.max_jump)
        if not (far := joints.follows & (distance > allowed)).any():
            return None
        i = int(far.argmax())
        text = f"{joints.names[i]} is {distance[i]:.3f} away; at most {allowed[i]:.3f} is allowed"
        return Refusal(Reason.FAR, text)
