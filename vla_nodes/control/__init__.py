# SPDX-License-Identifier: Apache-2.0
"""The commander's core: timed chunks in, commands within limits out. No ROS, numpy only."""

from vla_nodes.control.chunks import OfferedChunk, Reason, Refusal
from vla_nodes.control.command import Command, Health, State
from vla_nodes.control.commander import MotionCore
from vla_nodes.control.parameters import MotionParameters

__all__ = [
    "Command",
    "Health",
    "MotionCore",
    "MotionParameters",
    "OfferedChunk",
    "Reason",
    "Refusal",
    "State",
]
