# SPDX-License-Identifier: Apache-2.0
"""Commands as the controllers want them."""

import array
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_nodes.contract import ActionSource
from vla_nodes.control import Command
from vla_nodes.nodes import qos
from vla_nodes.nodes.lifecycle import ManagedNode
from vla_nodes.nodes.stamps import duration_message


class CommandOutput:
    """Publishes one controller's part of the command; its message is made once and filled anew.

    Args:
        node: Carries the publisher.
        source: The controller.
        period: Of the commands, seconds.
        start: Where its joints begin in the action vector.
    """

    def __init__(self, node: ManagedNode, source: ActionSource, period: float, start: int) -> None:
        self._part = slice(start, start + len(source.joints))
        self._scale = 180.0 / np.pi if source.units == "deg" else 1.0
        self._is_trajectory = source.type == "trajectory_msgs/msg/JointTrajectory"
        if self._is_trajectory:
            self._message = JointTrajectory(joint_names=list(source.joints))
            self._message.points = [
                JointTrajectoryPoint(time_from_start=duration_message(round(period * 1e9)))
            ]
        else:
            self._message = Float64MultiArray()
        self._publisher = node.publish_on(type(self._message), source.topic, qos.NEWEST)
        self.topic = self._publisher.topic_name

    def publish(self, command: Command, stamp: Time) -> None:
        """Send the controller's part of a command."""
        positions = array.array("d", command.positions[self._part] * self._scale)
        if self._is_trajectory:
            point = self._message.points[0]
            point.positions = positions
            point.velocities = array.array("d", command.velocities[self._part] * self._scale)
            self._message.header.stamp = stamp
        else:
            self._message.data = positions
        self._publisher.publish(self._message)


def command_outputs(
    node: ManagedNode, sources: Sequence[ActionSource], period: float
) -> list[CommandOutput]:
    """One output for each controller, in the order of the action vector."""
    ends = accumulate(len(source.joints) for source in sources)
    starts = [0, *ends]
    return [
        CommandOutput(node, source, period, start)
        for source, start in zip(sources, starts, strict=False)
    ]
