# SPDX-License-Identifier: Apache-2.0
"""Frames with returns that values are held against, and datasets and checkpoints of such."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from evaluation_samples import TASKS, make_dataset, make_episodes
from value_checkpoint_samples import make_value_checkpoint

from vla_training.data.labels.columns import write_columns
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.labels.label import label
from vla_training.evaluation.value_metrics import LabelledFrames

OUTCOMES = {"s": 1, "f": 0, "u": -1}


def make_frames(lengths: tuple[int, ...], outcomes: str, tasks: str) -> LabelledFrames:
    """Episodes of some lengths; a letter of ``outcomes`` and of ``tasks`` for each.

    Returns are as by task with a coefficient of 1, but on no grid.
    """
    longest = max(lengths) * 1.013
    columns = []
    for number, (length, outcome, task) in enumerate(zip(lengths, outcomes, tasks, strict=True)):
        place = np.arange(length)
        cost = (length - place - 1) + (longest if outcome == "f" else 0)
        same = np.full(length, number), place, np.full(length, task, object)
        columns.append((*same, -cost / (2 * longest), np.full(length, OUTCOMES[outcome])))
    return LabelledFrames(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def make_labelled(
    root: Path, lengths: tuple[int, ...], outcomes: str, settings: Settings | None = None
) -> Path:
    """Recordings of two tasks in turn, with a letter of ``outcomes`` for each, and labels."""
    make_dataset(root, make_episodes(lengths))
    numbers = np.repeat([OUTCOMES[letter] for letter in outcomes], lengths).astype(np.int64)
    stats = json.loads((root / "meta/stats.json").read_text())
    info = json.loads((root / "meta/info.json").read_text())
    write_columns(root, info, stats, {"outcome": numbers}, np.array(lengths))
    if settings is not None:
        label(root, settings)
    return root


def make_checkpoint(folder: Path, labels: Settings, **changes: object) -> Path:
    """A value function of random weights that was trained on such labels."""
    make_value_checkpoint(folder, TASKS, ("wrist", "front"), history=2)
    interface = json.loads((folder / "value.json").read_text())
    interface |= {"labels": asdict(labels), "split_seed": 0, **changes}
    (folder / "value.json").write_text(json.dumps(interface))
    return folder


def recorded_frames(root: Path) -> pd.DataFrame:
    """All columns of numbers, as they lie on the disk."""
    files = sorted((root / "data").glob("*/*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
