# SPDX-License-Identifier: Apache-2.0
"""The controllers that a contract names, and where a bag holds their actions."""

from typing import Any

from vla_nodes.contract.document import Entry
from vla_nodes.contract.limits import read_grippers, read_limits
from vla_nodes.contract.schema import ActionSource, Recorded
from vla_nodes.contract.streams import JOINT_STATE, JOINTS, SECONDS, UNITS
from vla_nodes.contract.values import PREFIX, TOPIC, Kind, choice, section

JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
FLOAT64_MULTI_ARRAY = "std_msgs/msg/Float64MultiArray"


def _later(expected: str) -> Kind:
    """What needs the source's joints, and so is read after the rest."""
    return Kind(expected, lambda entry: entry)


_ACTION = {
    "topic": TOPIC,
    "type": choice(JOINT_TRAJECTORY, FLOAT64_MULTI_ARRAY),
    "joints": JOINTS,
    "limits": _later("a mapping with urdf, default or joints"),
}
_ACTION_OPTIONAL = {
    "units": UNITS,
    "prefix": PREFIX,
    "grippers": _later("a mapping of joints"),
    "recorded": _later("a mapping with topic and type"),
}

_RECORDED = {"topic": TOPIC, "type": choice(JOINT_STATE, JOINT_TRAJECTORY, FLOAT64_MULTI_ARRAY)}
_RECORDED_OPTIONAL = {
    "joints": JOINTS,
    "sample": choice("frame", "next"),
    "units": UNITS,
    "max_age": SECONDS,
}


def read_action(name: str, entry: Entry) -> ActionSource:
    """Reads one entry of ``actions``.

    Raises:
        ContractError: If it breaks a rule.
    """
    values: dict[str, Any] = section(entry, _ACTION, _ACTION_OPTIONAL)
    joints = values["joints"]
    limits = read_limits(values.pop("limits"), joints)
    grippers = {}
    if "grippers" in values:
        grippers = read_grippers(values.pop("grippers"), dict(zip(joints, limits, strict=True)))
    if "recorded" in values:
        values["recorded"] = _read_recorded(values["recorded"], joints)
    values |= {"limits": limits, "grippers": tuple(grippers.get(joint) for joint in joints)}
    return ActionSource(name=name, **values)


def _read_recorded(entry: Entry, joints: tuple[str, ...]) -> Recorded:
    recorded = Recorded(**{"joints": joints, **section(entry, _RECORDED, _RECORDED_OPTIONAL)})
    if len(recorded.joints) != len(joints):
        found = f"{len(recorded.joints)} joints for an action of {len(joints)}"
        raise entry.at("joints").error(found, f"write one for each of {', '.join(joints)}")
    return recorded
