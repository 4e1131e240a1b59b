# SPDX-License-Identifier: Apache-2.0
"""Hearing e-stop buttons, however they publish."""

from collections.abc import Callable

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

from vla_nodes.nodes import topics
from vla_nodes.nodes.lifecycle import ManagedNode

# Deep enough that a press and its release both survive a busy moment.
_DEPTH = 10
_ANY = QoSProfile(
    depth=_DEPTH,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
_LATCHED = QoSProfile(
    depth=_DEPTH,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def subscribe_estop(node: ManagedNode, callback: Callable[[Bool], None]) -> None:
    """Hear every button: any publisher matches the first subscription.

    The second one gets, from publishers that latch, what was pressed before this node began; a
    press of such a publisher may be heard twice.
    """
    node.subscribe(Bool, topics.ESTOP, callback, _ANY)
    # That this one does not match a volatile button is as it should be, and is not reported.
    silent = SubscriptionEventCallbacks(use_default_callbacks=False)
    node.create_subscription(Bool, topics.ESTOP, callback, _LATCHED, event_callbacks=silent)
