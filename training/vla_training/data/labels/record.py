# SPDX-License-Identifier: Apache-2.0
"""What a dataset keeps about its labels: ``meta/labels.json``."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_training.data.errors import DataError
from vla_training.data.labels.columns import Frames, write_json

_FILE = "meta/labels.json"


def new_record(
    root: Path, settings: Mapping[str, Any], frames: Frames, columns: Sequence[str]
) -> dict[str, Any]:
    """What there will be to say about labels.

    Args:
        root: Of the dataset.
        settings: Of the labels.
        frames: That they follow from.
        columns: Their names.
    """
    conversion = _read_json(root / "meta/conversion.json") or {}
    return {
        "settings": dict(settings),
        "columns": list(columns),
        "contract_digest": conversion.get("contract_digest"),
        "inputs": _digest(frames),
    }


def write_record(root: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of a dataset that nobody else reads yet."""
    write_json(root / _FILE, record)


def read_record(root: Path) -> dict[str, Any] | None:
    """The record of a dataset; None where it was never labelled.

    Raises:
        DataError: It is damaged.
    """
    record = _read_json(root / _FILE)
    if record is None:
        return None
    kinds = {"settings": dict, "columns": list, "inputs": str}
    if not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        raise DataError(f"{root / _FILE} is no record of labels; expected it as vla-label wrote it")
    return record


def same_labels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same labels."""
    return all(one[key] == other[key] for key in ("settings", "inputs"))


def differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In what two records differ, in words."""
    there, wanted = before["settings"], asked["settings"]
    found = [
        f"{key} {there.get(key)} there, {wanted[key]} asked for"
        for key in wanted
        if there.get(key) != wanted[key]
    ]
    return "; ".join(found) or "made from other lengths, tasks, outcomes or values"


def _digest(frames: Frames) -> str:
    """Tells whether the data that labels follow from has changed."""
    digest = hashlib.sha256(frames.lengths.tobytes())
    for name in sorted(frames.columns):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(frames.columns[name]).tobytes())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error!s:.200}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected an object")
    return value
