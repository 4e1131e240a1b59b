# SPDX-License-Identifier: Apache-2.0
"""Joint limits out of a URDF.

The format: http://wiki.ros.org/urdf/XML/joint.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from vla_nodes.contract.errors import ContractError
from vla_nodes.contract.files import read_text

MAX_BYTES = 8 << 20


@dataclass(frozen=True)
class UrdfLimits:
    """What a URDF allows a joint; rad or m, and per second.

    Attributes:
        lower: Minus infinity for a continuous joint.
        upper: Infinity for a continuous joint.
        velocity: Greatest speed.
    """

    lower: float
    upper: float
    velocity: float


UNBOUNDED = UrdfLimits(-math.inf, math.inf, math.inf)


def read_urdf_limits(file: Path, joints: Iterable[str]) -> dict[str, UrdfLimits]:
    """Reads the limits of the named joints.

    Where a joint has a ``safety_controller``, its soft limits narrow the position's range.

    Args:
        file: A plain URDF, xacro already expanded.
        joints: Names of revolute, prismatic or continuous joints that mimic no other.

    Returns:
        Limits by joint name.

    Raises:
        ContractError: If the file cannot be read or a joint has no sound limits in it.
    """
    elements: dict[str, list[ElementTree.Element]] = {}
    for element in _parse(file).findall("joint"):
        elements.setdefault(element.get("name", ""), []).append(element)
    limits = {}
    for joint in joints:
        found = elements.get(joint, [])
        if len(found) != 1:
            count = f"{len(found) or 'no'} joints of this name"
            remedy = "define it once (and expand xacro first)"
            raise ContractError(file, None, f"joint {joint}", count, remedy)
        limits[joint] = _Joint(file, found[0]).limits()
    return limits


def _parse(file: Path) -> ElementTree.Element:
    text = read_text(file, MAX_BYTES)
    if declaration := re.search("<!(DOCTYPE|ENTITY)", text):
        # Entities can unfold without bound or pull in other files; a URDF needs none.
        start = text.count("\n", 0, declaration.start()) + 1
        raise ContractError(file, start, "", "a DOCTYPE or entity", "remove it")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        line = getattr(error, "position", (None,))[0]
        raise ContractError(file, line, "", str(error), "write well-formed XML") from error
    if root.tag != "robot":
        raise ContractError(file, None, "", f"<{root.tag[:60]}>", "write a URDF, <robot>")
    return root


@dataclass(frozen=True)
class _Joint:
    file: Path
    element: ElementTree.Element

    def limits(self) -> UrdfLimits:
        kind = self.element.get("type")
        if kind not in ("revolute", "prismatic", "continuous"):
            raise self.error("type", repr(kind), "command revolute, prismatic or continuous joints")
        if self.element.find("mimic") is not None:
            raise self.error("mimic", "a joint that follows another", "command that other joint")
        velocity = self.number("limit", "velocity")
        if velocity is None or velocity <= 0:
            found = "no velocity" if velocity is None else f"{velocity}"
            raise self.error("limit.velocity", found, "write its greatest speed, above 0")
        if kind == "continuous":
            return replace(UNBOUNDED, velocity=velocity)
        # The format's default of a missing bound is 0.
        lower = self.number("limit", "lower") or 0.0
        upper = self.number("limit", "upper") or 0.0
        soft_lower = self.number("safety_controller", "soft_lower_limit")
        soft_upper = self.number("safety_controller", "soft_upper_limit")
        lower = lower if soft_lower is None else max(lower, soft_lower)
        upper = upper if soft_upper is None else min(upper, soft_upper)
        if lower >= upper:
            raise self.error("limit", f"[{lower}, {upper}]", "write a lower below the upper")
        return UrdfLimits(lower, upper, velocity)

    def number(self, tag: str, attribute: str) -> float | None:
        """The attribute of a child, or None where the file has none."""
        child = self.element.find(tag)
        text = None if child is None else child.get(attribute)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{tag}.{attribute}", repr(text[:60]), "write a finite number")
        return value

    def error(self, key: str, found: str, remedy: str) -> ContractError:
        name = self.element.get("name")
        return ContractError(self.file, None, f"joint {name}.{key}", found, remedy)
