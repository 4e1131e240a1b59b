# SPDX-License-Identifier: Apache-2.0
"""Where a contract finds joint values in a recording."""

from dataclasses import dataclass

from vla_nodes.contract.schema import Contract
from vla_nodes.contract.streams import JOINT_STATE
from vla_training.data.frames.actions import recorded_actions


@dataclass(frozen=True)
class JointStream:
    """A topic that carries joint values, in the order and units of the contract's vectors.

    Attributes:
        name: Of the state or action source.
        topic: Absolute ROS topic.
        type: ROS type.
        joints: Names as the messages spell them.
        fields: Of a ``JointState``, field by field.
        units: Of the messages.
        limits: Of each value, as indices into the contract's ``limits``; None where it has none.
    """

    name: str
    topic: str
    type: str
    joints: tuple[str, ...]
    fields: tuple[str, ...]
    units: str
    limits: tuple[int | None, ...]

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the values: the joint, and the field where it is not the position."""
        return tuple(
            joint if field == "position" else f"{joint}.{field}"
            for field in self.fields
            for joint in self.joints
        )


def state_streams(contract: Contract) -> list[JointStream]:
    """The contract's states, in its order."""
    limit_of = {state: i for i, state in enumerate(contract.measured_index)}
    streams, start = [], 0
    for s in contract.states:
        end = start + len(s.vector_names)
        limits = tuple(limit_of.get(i) for i in range(start, end))
        streams.append(
            JointStream(s.name, s.topic, JOINT_STATE, s.joints, s.fields, s.units, limits)
        )
        start = end
    return streams


def action_streams(contract: Contract) -> list[JointStream]:
    """Where the contract's actions are recorded, in its order."""
    streams, start = [], 0
    for source in contract.actions:
        origin = recorded_actions(source)
        limits = tuple(range(start, start + len(source.joints)))
        streams.append(
            JointStream(
                source.name,
                origin.topic,
                origin.type,
                origin.joints,
                ("position",),
                origin.units,
                limits,
            )
        )
        start += len(source.joints)
    return streams
