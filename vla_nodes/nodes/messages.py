# SPDX-License-Identifier: Apache-2.0
"""Messages from arrays."""

from builtin_interfaces.msg import Duration, Time
from trajectory_msgs.msg import JointTrajectoryPoint
from vla_interfaces.msg import ActionChunk

from vla_nodes.contract import Contract
from vla_nodes.inference import ActionPlan

_SECOND = 1_000_000_000


def nanoseconds(stamp: Time | Duration) -> int:
    """A stamp or a duration in nanoseconds."""
    return stamp.sec * _SECOND + stamp.nanosec


def time_message(stamp: int) -> Time:
    """A stamp of ``stamp`` nanoseconds."""
    seconds, rest = divmod(stamp, _SECOND)
    return Time(sec=seconds, nanosec=rest)


def duration_message(duration: int) -> Duration:
    """A duration of ``duration`` nanoseconds."""
    seconds, rest = divmod(duration, _SECOND)
    return Duration(sec=seconds, nanosec=rest)


def chunk_message(contract: Contract, stamp: int, plan: ActionPlan) -> ActionChunk:
    """A policy's plan for the observation at ``stamp`` (ns) as a message.

    Goal, sequence, subtask and latency are left to the caller.
    """
    message = ActionChunk(
        relative=plan.relative,
        energy=plan.energy,
        threshold=plan.threshold,
        verdict=int(plan.verdict),
    )
    message.header.stamp = time_message(stamp)
    message.trajectory.header.stamp = message.header.stamp
    message.trajectory.joint_names = list(contract.action_names)
    message.trajectory.points = [
        JointTrajectoryPoint(
            positions=row, time_from_start=duration_message(round((i + 1) * _SECOND / contract.fps))
        )
        for i, row in enumerate(plan.actions.tolist())
    ]
    return message
