# SPDX-License-Identifier: Apache-2.0
"""Kinds of values: how to read an entry, and the words for what would be right."""

import contextlib
import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vla_nodes.contract.document import Entry, describe

_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line separators


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        expected: What is right, to follow "write".
        read: Turns an entry into the value, or raises a ContractError.
    """

    expected: str
    read: Callable[[Entry], Any]


def section(
    entry: Entry, required: Mapping[str, Kind], optional: Mapping[str, Kind]
) -> dict[str, Any]:
    """Reads a mapping with these keys and no other.

    Returns:
        The values of the keys that the file has.

    Raises:
        ContractError: For an unknown key, a missing one, or a value that its kind refuses.
    """
    kinds = {**required, **optional}
    for name, child in entry.children.items():
        if name not in kinds:
            raise child.error("an unknown key", suggest(name, kinds))
    for name, kind in required.items():
        if name not in entry.children:
            raise entry.missing(name, remedy=f"write {kind.expected}")
    return {name: kinds[name].read(child) for name, child in entry.children.items()}


def suggest(word: str, known: Collection[str]) -> str:
    """A remedy for a word that is none of the known ones."""
    close = difflib.get_close_matches(word[:100], known, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"


def number(
    unit: str, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> Kind:
    """A finite number above ``above``, not under ``least``, and not over ``most``."""
    bounds = {"above": above, "from": least, "up to": most}
    words = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    expected = " ".join(["a finite number", *words, f"({unit})"])

    def read(entry: Entry) -> float:
        value = entry.value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise entry.error(describe(value), f"write {expected}{_number_hint(value)}")
        if not (math.isfinite(value) and above < value and least <= value <= most):
            raise entry.error(describe(value), f"write {expected}")
        return float(value)

    return Kind(expected, read)


def integer(unit: str, least: int, most: int) -> Kind:
    """An integer from ``least`` to ``most``."""
    expected = f"an integer from {least} to {most} ({unit})"

    def read(entry: Entry) -> int:
        value = entry.value
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise entry.error(describe(value), f"write {expected}")
        return value

    return Kind(expected, read)


def choice(*options: str) -> Kind:
    """One of a few words."""
    expected = options[0] if len(options) == 1 else f"one of {', '.join(options)}"

    def read(entry: Entry) -> str:
        if not isinstance(entry.value, str):
            raise entry.error(describe(entry.value), f"write {expected}")
        if entry.value not in options:
            raise entry.error(describe(entry.value), suggest(entry.value, options))
        return entry.value

    return Kind(expected, read)


def text(expected: str, most: int, pattern: str = r"(?s:.*\S.*)") -> Kind:
    """Text of 1 to ``most`` characters that matches ``pattern`` and has no control characters."""
    expected = f"{expected}, at most {most} characters"

    def read(entry: Entry) -> str:
        value = entry.value
        if not isinstance(value, str):
            quotes = ", in quotes" if isinstance(value, bool | int | float) else ""
            raise entry.error(describe(value), f"write {expected}{quotes}")
        if len(value) > most:
            raise entry.error(f"{len(value)} characters", f"write {expected}")
        if not re.fullmatch(pattern, value):
            raise entry.error(describe(value), f"write {expected}")
        if any(unicodedata.category(character) in _CONTROL for character in value):
            raise entry.error(describe(value), f"write {expected}, without control characters")
        return value

    return Kind(expected, read)


def listing(item: Kind, *, least: int = 0, most: int = 1000, unique: bool = True) -> Kind:
    """A list of ``least`` to ``most`` values of one kind, read as a tuple."""
    length = f"{least}" if least == most else f"{least} to {most}"
    expected = f"a list of {length}, each {item.expected}"

    def read(entry: Entry) -> tuple[Any, ...]:
        if not isinstance(entry.value, list) or not least <= len(entry.value) <= most:
            raise entry.error(describe(entry.value), f"write {expected}")
        values: list[Any] = []
        for child in entry.value:
            value = item.read(child)
            if unique and value in values:
                raise child.error(f"{describe(value)} twice", "name each once")
            values.append(value)
        return tuple(values)

    return Kind(expected, read)


def named(read_one: Callable[[str, Entry], Any], what: str, least: int = 0) -> Kind:
    """A mapping from names to sections, read as a tuple in the order of the file."""
    expected = f"a mapping of at least {least} {what}, each under its name"

    def read(entry: Entry) -> tuple[Any, ...]:
        if len(entry.children) < least:
            raise entry.error(describe(entry.value), f"write {expected}")
        for name, child in entry.children.items():
            if not re.fullmatch(NAME_PATTERN, name):
                raise child.error(f"the name {describe(name)}", f"write {NAME.expected}")
        return tuple(read_one(name, child) for name, child in entry.children.items())

    return Kind(expected, read)


def _number_hint(value: Any) -> str:
    """What to say of text that Python would take for a number but YAML does not."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and math.isfinite(float(value)):
            return f", such as {float(value)!r} without quotes"
    return ""


NAME_PATTERN = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
NAME = text("a name of letters, digits and _ that begins with a letter or _", 64, NAME_PATTERN)
PREFIX = text("a prefix of letters, digits and _", 64, r"(?:[A-Za-z_][A-Za-z0-9_]*)?")
JOINT = text("a joint's name of letters, digits, _ - . /", 100, r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
TOPIC = text("an absolute topic such as /joint_states", 200, r"(?:/[A-Za-z_][A-Za-z0-9_]*)+")
SENTENCE = text("a sentence", 512)
