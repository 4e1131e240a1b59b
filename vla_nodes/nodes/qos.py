# SPDX-License-Identifier: Apache-2.0
"""Quality of service of every edge of the graph; all keep the last messages."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from vla_nodes.contract import Qos


def profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """A profile that keeps the last ``depth`` messages, and latched ones for late joiners too."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


# What a late joiner must know (subtask).
LATCHED = profile(1, latched=True)
# Only the newest counts (commands, chunks, the lease).
NEWEST = profile(1)
# Several senders on one topic (heartbeats).
SHARED = profile(20)


def sensor(qos: Qos) -> QoSProfile:
    """Profile of a subscription to a camera or a state source."""
    return profile(qos.depth, reliable=qos.reliability == "reliable")
