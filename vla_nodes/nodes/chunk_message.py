# SPDX-License-Identifier: Apache-2.0
"""A policy's plan as the message that the commander gets."""

from trajectory_msgs.msg import JointTrajectoryPoint
from vla_interfaces.msg import ActionChunk

from vla_nodes.contract import Contract
from vla_nodes.inference import ActionPlan
from vla_nodes.nodes.stamps import SECOND, duration_message, time_message


def chunk_message(contract: Contract, stamp: int, plan: ActionPlan) -> ActionChunk:
    """A policy's plan for the observation at ``stamp`` (ns) as a message.

    A single action is held for one more step: motion needs two points. Goal, sequence, subtask
    and latency are left to the caller.
    """
    rows = plan.actions.tolist()
    rows = rows * 2 if len(rows) == 1 else rows
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
            positions=row, time_from_start=duration_message(round((i + 1) * SECOND / contract.fps))
        )
        for i, row in enumerate(rows)
    ]
    return message
