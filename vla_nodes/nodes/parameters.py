# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from frozen dataclasses.

A node's parameters are the fields of one dataclass, made with :func:`parameter`, which adds
what a descriptor wants: a description, a range, the choices. :class:`ParameterSet` declares
them, checks what was given and hands out instances.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import Field, field, fields
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

# Overrides that rclpy itself understands.
_RCLPY_PARAMETERS = ("use_sim_time", "start_type_description_service", "qos_overrides")


class ParameterError(ValueError):
    """A parameter that was given is unknown or not acceptable."""


def parameter(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field that becomes a ROS parameter.

    Args:
        default: Its type is the parameter's type; a tuple of strings or of floats, which must not
            be empty, becomes an array of them.
        description: Shown by ``ros2 param describe``; says the unit and what it does.
        minimum: Smallest number allowed.
        maximum: Greatest number allowed.
        choices: The strings allowed; any when empty.
    """
    return field(
        default=default,
        metadata={
            "description": description,
            "minimum": minimum,
            "maximum": maximum,
            "choices": tuple(choices),
        },
    )


class ParameterSet[P]:
    """The declared parameters of one node.

    Bad values do not keep the node from starting: they are remembered, and :meth:`read` raises
    them, so that ``configure`` fails with the key and the value, and a corrected value set
    meanwhile is taken. Parameters can be changed only while ``changeable()`` holds.
    """

    def __init__(self, node: Node, kind: type[P], changeable: Any) -> None:
        self._node = node
        self._kind = kind
        self._fields: dict[str, Field] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
        self._errors: dict[str, str] = {}
        self._changeable = changeable
        for item in self._fields.values():
            self._declare(item)
        self._find_unknown()
        node.add_on_set_parameters_callback(self._on_set)

    def read(self) -> P:
        """The current values; raises ParameterError naming every one that is wrong."""
        if self._errors:
            raise ParameterError("; ".join(self._errors.values()))
        values = {name: self._node.get_parameter(name).value for name in self._fields}
        return self._kind(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        )

    def _declare(self, item: Field) -> None:
        descriptor = _descriptor(item)
        default = list(item.default) if isinstance(item.default, tuple) else item.default
        try:
            value = self._node.declare_parameter(item.name, default, descriptor).value
        except InvalidParameterTypeException as error:
            given = f"is of type {error.args[0] if error.args else 'another type'}"
            self._refuse(item, default, descriptor, given)
            return
        except InvalidParameterValueException as error:
            self._refuse(
                item,
                default,
                descriptor,
                f"is {error.args[1] if len(error.args) > 1 else 'out of range'}",
            )
            return
        if problem := _problem(item, value):
            self._errors[item.name] = problem

    def _refuse(
        self, item: Field, default: Any, descriptor: ParameterDescriptor, given: str
    ) -> None:
        given_value = self._overrides().get(item.name)
        shown = f"is {given_value.value!r}" if given_value is not None else given
        self._errors[item.name] = f"parameter '{item.name}' {shown}; it must be {_wanted(item)}"
        if not self._node.has_parameter(item.name):
            self._node.declare_parameter(item.name, default, descriptor, ignore_override=True)

    def _overrides(self) -> dict[str, Parameter]:
        return getattr(self._node, "_parameter_overrides", {})

    def _find_unknown(self) -> None:
        for name in self._overrides():
            if name.split(".")[0] in _RCLPY_PARAMETERS or self._node.has_parameter(name):
                continue
            close = difflib.get_close_matches(name, self._fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(self._fields)}"
            self._errors[name] = f"unknown parameter '{name}'; {hint}"

    def _on_set(self, changed: list[Parameter]) -> SetParametersResult:
        for new in changed:
            if new.name == "use_sim_time":
                reason = "'use_sim_time' is read when the node starts; restart it to change that"
                return SetParametersResult(successful=False, reason=reason)
            if new.name not in self._fields:
                continue
            if not self._changeable():
                reason = f"'{new.name}' can only be changed while the node is unconfigured"
                return SetParametersResult(successful=False, reason=reason)
            if problem := _problem(self._fields[new.name], new.value):
                return SetParametersResult(successful=False, reason=problem)
        for new in changed:
            self._errors.pop(new.name, None)
        return SetParametersResult(successful=True)


def _descriptor(item: Field) -> ParameterDescriptor:
    low, high = item.metadata["minimum"], item.metadata["maximum"]
    descriptor = ParameterDescriptor(description=item.metadata["description"])
    if item.metadata["choices"]:
        descriptor.additional_constraints = "one of: " + ", ".join(item.metadata["choices"])
    if low is not None or high is not None:
        if isinstance(item.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=-math.inf if low is None else float(low),
                    to_value=math.inf if high is None else float(high),
                )
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=-(2**63) if low is None else int(low),
                    to_value=2**63 - 1 if high is None else int(high),
                )
            ]
    return descriptor


def _problem(item: Field, value: Any) -> str | None:
    """What is wrong with a value beyond its type and range, or None."""
    choices = item.metadata["choices"]
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and (not choices or value in choices):
        return None
    return f"parameter '{item.name}' is {value!r}; it must be {_wanted(item)}"


def _wanted(item: Field) -> str:
    low, high = item.metadata["minimum"], item.metadata["maximum"]
    kind = {bool: "true or false", int: "a whole number", float: "a number with a decimal point"}
    if isinstance(item.default, tuple):
        numbers = all(isinstance(value, float) for value in item.default)
        wanted = "numbers with a decimal point" if numbers else "strings"
    else:
        wanted = kind.get(type(item.default), "a string")
    if item.metadata["choices"]:
        wanted = "one of " + ", ".join(item.metadata["choices"])
    if low is not None and high is not None:
        return f"{wanted} from {low} to {high}"
    if low is not None:
        return f"{wanted}, at least {low}"
    return f"{wanted}, at most {high}" if high is not None else wanted
