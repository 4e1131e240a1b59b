# SPDX-License-Identifier: Apache-2.0
"""What is recorded of a robot."""

from dataclasses import dataclass, replace

from vla_nodes.contract import Contract, Qos
from vla_nodes.contract.streams import JOINT_STATE

CAMERA_DEPTH, DEPTH = 30, 1000  # messages that may wait for a busy recorder
ANY_PUBLISHER = Qos("best_effort", DEPTH)


@dataclass(frozen=True)
class Stream:
    """A topic to record.

    Attributes:
        topic: Absolute name.
        type: Such as ``sensor_msgs/msg/Image``.
        qos: Best effort, which suits every publisher, unless the contract says otherwise.
        needed: A dataset cannot be made without it, so that its absence is reported.
    """

    topic: str
    type: str
    qos: Qos = ANY_PUBLISHER
    needed: bool = True


def contract_streams(contract: Contract) -> tuple[Stream, ...]:
    """Cameras, states, what the actions were, and the commands; each topic once."""
    streams = [
        *(Stream(c.topic, c.type, _deep(c.qos, CAMERA_DEPTH)) for c in contract.cameras),
        *(Stream(s.topic, JOINT_STATE, _deep(s.qos, DEPTH)) for s in contract.states),
    ]
    recorded = [action.recorded for action in contract.actions if action.recorded is not None]
    streams += [Stream(source.topic, source.type) for source in recorded]
    streams += [Stream(a.topic, a.type, needed=a.recorded is None) for a in contract.actions]
    once: dict[str, Stream] = {}
    for stream in streams:
        once.setdefault(stream.topic, stream)
    return tuple(once.values())


def _deep(qos: Qos, depth: int) -> Qos:
    return replace(qos, depth=max(qos.depth, depth))
