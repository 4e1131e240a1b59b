# SPDX-License-Identifier: Apache-2.0
"""Hearing e-stop buttons, however they publish."""

from collections.abc import Callable

from rclpy.event_handler import SubscriptionEventCallbacks
from std_msgs.msg import Bool

from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.lifecycle import ManagedNode

# Deep enough that a press and its release both survive a busy moment.
_DEPTH = 10


def subscribe_estop(node: ManagedNode, callback: Callable[[Bool], None]) -> None:
    """Hear every button: any publisher matches the first subscription.

    The second one gets, from publishers that latch, what was pressed before this node began; a
    press of such a publisher may be heard twice.
    """
    node.subscribe(Bool, topics.ESTOP, callback, qos.profile(_DEPTH, reliable=False))
    # That this one does not match a volatile button is as it should be, and is not reported.
    silent = SubscriptionEventCallbacks(use_default_callbacks=False)
    latched = qos.profile(_DEPTH, latched=True)
    node.create_subscription(Bool, topics.ESTOP, callback, latched, event_callbacks=silent)
