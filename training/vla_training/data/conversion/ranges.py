# SPDX-License-Identifier: Apache-2.0
"""A file that says which ranges of which bags are episodes."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from vla_training.data.bags.errors import shown
from vla_training.data.conversion.texts import check_outcome, check_text
from vla_training.data.errors import DataError

_LONGEST = 1e9  # s; a bag of thirty years
_KEYS = {"bag", "start_s", "stop_s", "task", "outcome"}


class Range(NamedTuple):
    """A part of a bag.

    Attributes:
        where: The entry of the file, for errors.
        start: Seconds from the beginning of the bag.
        stop: Likewise; None for the end of the bag.
        task: Empty where the entry says none.
        outcome: Likewise; may be ``discard``.
    """

    where: str
    start: float
    stop: float | None
    task: str
    outcome: str


def read_ranges(file: Path, bags: Sequence[Path]) -> dict[Path, list[Range]]:
    """Reads a JSON list of objects with ``bag``, ``start_s`` and, if need be, the other keys.

    Args:
        file: To read.
        bags: That the ranges may mean, by path or by name.

    Returns:
        By bag, in order of time.

    Raises:
        DataError: The file cannot be read, an entry is wrong or means no bag, or ranges overlap.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {shown(error)}") from error
    if not isinstance(entries, list):
        raise DataError(f"{file}: expected a list of ranges")
    ranges: dict[Path, list[Range]] = {}
    for place, entry in enumerate(entries):
        where = f"{file}: range {place}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object with the keys bag and start_s")
        bag = _named_bag(entry.get("bag"), where, file.parent, bags)
        ranges.setdefault(bag, []).append(_range(entry, where))
    for found in ranges.values():
        found.sort(key=lambda entry: entry.start)
        for one, other in pairwise(found):
            if one.stop is None or one.stop > other.start:
                raise DataError(f"{other.where} overlaps {one.where.removeprefix(f'{file}: ')}")
    return ranges


def _range(entry: Mapping[str, Any], where: str) -> Range:
    if unknown := entry.keys() - _KEYS:
        known = ", ".join(sorted(_KEYS))
        raise DataError(f"{where}: unknown key '{shown(min(unknown))}', expected {known}")
    start = _seconds(entry.get("start_s"), f"{where}: start_s")
    stop = None
    if entry.get("stop_s") is not None:
        stop = _seconds(entry["stop_s"], f"{where}: stop_s")
        if stop <= start:
            raise DataError(f"{where}: stop_s is {stop:g}, expected more than start_s, {start:g}")
    task = check_text(entry.get("task", ""), f"{where}: task")
    outcome = check_outcome(entry.get("outcome", ""), f"{where}: outcome")
    return Range(where, start, stop, task, outcome)


def _seconds(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (0 <= value < _LONGEST):
        raise DataError(f"{where} is {shown(value)}, expected seconds from the bag's start")
    return float(value)


def _named_bag(name: object, where: str, folder: Path, bags: Sequence[Path]) -> Path:
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}: expected a key bag with the bag's path or name")
    paths = {Path(name).resolve(), (folder / name).resolve()}
    found = [bag for bag in bags if bag.resolve() in paths] or [b for b in bags if b.name == name]
    if len(found) != 1:
        raise DataError(
            f"{where}: '{shown(name)}' is the name of {len(found)} of the bags given, expected one"
        )
    return found[0]
