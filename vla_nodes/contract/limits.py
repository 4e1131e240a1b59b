# SPDX-License-Identifier: Apache-2.0
"""Limits and grippers of an action's joints.

What a URDF allows is the outer bound: a contract may be tighter and is refused where it is wider.
"""

import math
from collections.abc import Iterable
from pathlib import Path

from vla_nodes.contract.document import Entry, describe
from vla_nodes.contract.schema import Gripper, JointLimits
from vla_nodes.contract.urdf import UNBOUNDED, UrdfLimits, read_urdf_limits
from vla_nodes.contract.values import Kind, listing, number, section, suggest, text

_POSITION = number("rad or m")
_RATES = {
    "velocity": number("rad/s or m/s", above=0),
    "acceleration": number("rad/s^2 or m/s^2", above=0),
}
_JOINT = {"position": listing(_POSITION, least=2, most=2, unique=False), **_RATES}


def _read_joints(entry: Entry) -> dict[str, dict]:
    return {joint: section(child, {}, _JOINT) for joint, child in entry.children.items()}


_LIMITS = {
    "urdf": text("the path of a URDF beside the contract", 200),
    "default": Kind("a mapping of rates", lambda entry: section(entry, {}, _RATES)),
    "joints": Kind("a mapping of joints", _read_joints),
}
_GRIPPER = {"low": _POSITION, "high": _POSITION}
_GRIPPER_OPTIONAL = {"threshold": _POSITION, "hysteresis": number("rad or m", least=0)}


def read_limits(entry: Entry, joints: tuple[str, ...]) -> tuple[JointLimits, ...]:
    """Reads the ``limits`` of an action source, one per joint.

    A joint's own value goes before the default, and the default before the URDF's.

    Raises:
        ContractError: If a joint lacks a limit, a joint is not one of ``joints``, or a limit is
            empty or wider than the URDF's.
    """
    values = section(entry, {}, _LIMITS)
    _refuse_others(entry.at("joints"), values.get("joints", {}), joints)
    outer = dict.fromkeys(joints, UNBOUNDED)
    if "urdf" in values:
        outer = read_urdf_limits(_beside(entry.at("urdf")), joints)
    return tuple(_joint_limits(entry, joint, values, outer[joint]) for joint in joints)


def read_grippers(entry: Entry, limits: dict[str, JointLimits]) -> dict[str, Gripper]:
    """Reads the ``grippers`` of an action source.

    Args:
        entry: A mapping by joint.
        limits: Of every joint of the source.

    Raises:
        ContractError: If a joint is unknown, or its gripper could not switch or leaves the limits.
    """
    _refuse_others(entry, entry.children, limits)
    return {joint: _gripper(child, limits[joint]) for joint, child in entry.children.items()}


def _refuse_others(entry: Entry, named: Iterable[str], joints: Iterable[str]) -> None:
    for joint in named:
        if joint not in joints:
            remedy = suggest(joint, tuple(joints))
            raise entry.at(joint).error(f"{describe(joint)}, no joint of this source", remedy)


def _beside(entry: Entry) -> Path:
    """The file that an entry names, which must lie in the folder of the contract."""
    # A symlinked install links each file: the folder is the one of the file behind the link.
    folder = entry.file.resolve().parent
    shown = describe(entry.value)
    try:
        file = (folder / entry.value).resolve()
        exists = file.is_file()
    except (OSError, RuntimeError) as error:  # too long a name, a loop of links
        raise entry.error(shown, "write a path that can be read") from error
    if not file.is_relative_to(folder):
        found = f"{shown}, outside the contract's folder"
        raise entry.error(found, "put the file beside the contract")
    if not exists:
        raise entry.error(f"{shown}, no such file", "write a path relative to the contract")
    return file


def _joint_limits(entry: Entry, joint: str, values: dict, outer: UrdfLimits) -> JointLimits:
    own = values.get("joints", {}).get(joint, {})
    lower, upper = own.get("position", (outer.lower, outer.upper))
    where = entry.at("joints", joint, "position")
    if math.isinf(lower) or math.isinf(upper):
        remedy = "write [lower, upper] in rad or m (no URDF limits this joint)"
        raise entry.missing("joints", joint, "position", remedy=remedy)
    if lower >= upper:
        raise where.error(f"[{lower}, {upper}]", "write the lower bound first")
    if lower < outer.lower or upper > outer.upper:
        found = f"[{lower}, {upper}], wider than the URDF's [{outer.lower}, {outer.upper}]"
        raise where.error(found, "stay within the URDF")
    return JointLimits(lower, upper, **_rates(entry, joint, values, outer))


def _rates(entry: Entry, joint: str, values: dict, outer: UrdfLimits) -> dict[str, float]:
    own = values.get("joints", {}).get(joint, {})
    urdf = {"velocity": outer.velocity} if math.isfinite(outer.velocity) else {}
    given = {**urdf, **values.get("default", {}), **own}
    for name, kind in _RATES.items():
        if name not in given:
            raise entry.missing("joints", joint, name, remedy=f"write {kind.expected}")
    if given["velocity"] > outer.velocity:
        place = ("joints", joint) if "velocity" in own else ("default",)
        found = f"{given['velocity']} for {joint}, over the URDF's {outer.velocity}"
        raise entry.at(*place, "velocity").error(found, "stay within the URDF")
    return {name: given[name] for name in _RATES}


def _gripper(entry: Entry, limits: JointLimits) -> Gripper:
    values = section(entry, _GRIPPER, _GRIPPER_OPTIONAL)
    low, high = values["low"], values["high"]
    if not limits.lower <= low < high <= limits.upper:
        found = f"low {low} and high {high} in limits of [{limits.lower}, {limits.upper}]"
        raise entry.error(found, "write low below high, both within the limits")
    values.setdefault("threshold", (low + high) / 2)
    values.setdefault("hysteresis", (high - low) / 10)
    gripper = Gripper(**values)
    if gripper.hysteresis >= min(gripper.threshold - low, high - gripper.threshold):
        found = f"threshold {gripper.threshold} and hysteresis {gripper.hysteresis}"
        remedy = f"keep threshold - hysteresis and threshold + hysteresis in ({low}, {high})"
        raise entry.error(found, remedy)
    return gripper
