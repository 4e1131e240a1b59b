# SPDX-License-Identifier: Apache-2.0
"""What a dataset keeps about its labels: ``meta/labels.json``."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_training.data.errors import DataError
from vla_training.data.labels.columns import Frames
from vla_training.data.labels.frame_labels import LABELS
from vla_training.data.labels.metadata import read_json, write_json

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
    conversion = read_json(root / "meta/conversion.json") or {}
    return {
        "settings": dict(settings),
        "columns": list(columns),
        "contract_digest": conversion.get("contract_digest"),
        "inputs": digest_of(frames),
    }


def write_record(root: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of a dataset that nobody else reads yet."""
    write_json(root / _FILE, record)


def read_record(root: Path) -> dict[str, Any] | None:
    """The record of a dataset; None where it was never labelled.

    Raises:
        DataError: It is damaged.
    """
    record = read_json(root / _FILE)
    if record is None:
        return None
    kinds = {"settings": dict, "columns": list, "inputs": str}
    # Its columns are removed with the labels: what else it may name is not ours.
    if not all(isinstance(record.get(key), kind) for key, kind in kinds.items()) or not all(
        column in LABELS for column in record["columns"]
    ):
        raise DataError(f"{root / _FILE} is no record of labels; expected it as vla-label wrote it")
    return record


def differences(
    before: Mapping[str, Any], asked: Mapping[str, Any], features: Collection[str]
) -> str:
    """In what the labels that are there differ from those asked for, in words; empty if not.

    Args:
        before: Record of those that are there.
        asked: Record of the others.
        features: Columns of the dataset, from which other programs may have removed some.
    """
    there, wanted = before["settings"], asked["settings"]
    found = [
        f"{key} {there.get(key)} there, {wanted[key]} asked for"
        for key in wanted
        if there.get(key) != wanted[key]
    ]
    found += [f"column {name} is gone" for name in before["columns"] if name not in features]
    if not found:
        found += [f"no {name} there" for name in asked["columns"] if name not in before["columns"]]
    if not found and before["inputs"] != asked["inputs"]:
        found.append("made from other lengths, tasks, outcomes or values")
    return "; ".join(found)


def digest_of(frames: Frames, columns: Collection[str] | None = None) -> str:
    """Tells whether frames have changed; ``columns`` are those that matter, None for all."""
    digest = hashlib.sha256(frames.lengths.tobytes())
    for name in sorted(frames.columns if columns is None else columns):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(frames.columns[name]).tobytes())
    return digest.hexdigest()
