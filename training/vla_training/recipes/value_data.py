# SPDX-License-Identifier: Apache-2.0
"""The data that a value function is trained on, and what they say of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_nodes.models.value_checkpoint import ValueInterface
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import RETURN, SUBTASK_RETURN
from vla_training.data.labels.metadata import read_info
from vla_training.data.labels.record import read_record
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.training_set import TrainingSet, join
from vla_training.data.schema import OUTCOME, Outcome
from vla_training.recipes.value_settings import ValueDataSettings

LABEL_SETTINGS = ("mode", "coefficient", "max_steps", "unknown")
"""Of a dataset's labels, those that returns follow from."""


@dataclass(frozen=True, eq=False)
class ValueData:
    """Of one or more datasets of one robot.

    Attributes:
        training: Frames to learn from, one set for each dataset.
        validation: Frames that choose the checkpoint, likewise.
        interface: What there is to see, and how it was labelled.
    """

    training: Sequence[TrainingSet]
    validation: Sequence[TrainingSet]
    interface: ValueInterface

    @property
    def targets(self) -> str:
        """Digest of which frames there are, with their texts and returns."""
        digest = hashlib.sha256()
        for one in (*self.training, *self.validation):
            table, rows = one.table, one.rows
            digest.update(repr((table.task.texts, table.subtask.texts)).encode())
            labels = (table.labels[RETURN], table.labels[SUBTASK_RETURN])
            for column in (
                table.episode,
                table.frame,
                table.task.codes,
                table.subtask.codes,
                *labels,
            ):
                digest.update(np.ascontiguousarray(column[rows]).tobytes())
        return digest.hexdigest()[:16]


def read_value_data(settings: ValueDataSettings) -> ValueData:
    """Opens labelled datasets.

    Raises:
        DataError: They cannot be read, have no labels, do not fit each other, or have too few
            episodes to be split.
    """
    shares = settings.shares
    labels = _labels(settings.dataset)
    training: list[TrainingSet] = []
    validation: list[TrainingSet] = []
    for dataset in settings.dataset:
        root = dataset.resolve()
        split = split_episodes(read_info(root)["total_episodes"], settings.split_seed, shares)
        for episodes, sets in ((split.train, training), (split.validation, validation)):
            sets.append(
                TrainingSet(
                    root,
                    1,
                    episodes,
                    cameras=settings.cameras or None,
                    stride=settings.stride,
                    require=(RETURN,),
                )
            )
    join([*training, *validation])  # refuses sets that do not fit each other
    interface = ValueInterface(
        cameras=tuple(dict.fromkeys(name for one in training for name in one.schema.cameras)),
        fps=float(training[0].schema.fps),
        tasks=_texts(training, subtasks=settings.subtasks > 0.0),
        split_seed=settings.split_seed,
        shares=shares,
        labels=labels,
    )
    return ValueData(training, validation, interface)


def lacking_outcome(training: Sequence[TrainingSet]) -> str:
    """What a value function cannot learn from the data, in words; empty where nothing."""
    seen = {int(one) for data in training for one in np.unique(data.table.labels[OUTCOME])}
    for outcome, word in ((Outcome.SUCCESS, "succeeded"), (Outcome.FAILURE, "failed")):
        if outcome not in seen:
            return (
                f"no episode of the training split {word}: the values will not tell successes "
                "from failures"
            )
    return ""


def _labels(datasets: Sequence[Path]) -> Mapping[str, Any]:
    """The settings that all of them were labelled with."""
    first: dict[str, Any] | None = None
    for dataset in datasets:
        record = read_record(dataset.resolve())
        if record is None:
            raise DataError(f"{dataset} has no labels; vla-label makes them")
        ours = {name: record["settings"].get(name) for name in LABEL_SETTINGS}
        if first is not None and ours != first:
            raise DataError(
                f"{dataset} is labelled by {ours}, and {datasets[0]} by {first}; label them alike"
            )
        first = ours
    assert first is not None  # settings without a dataset are refused
    return first


def _texts(sets: Sequence[TrainingSet], *, subtasks: bool) -> tuple[str, ...]:
    texts = set()
    for one in sets:
        table = one.table
        texts |= {table.task.texts[code] for code in np.unique(table.task.codes[one.rows])}
        if subtasks:
            rows = one.rows[table.has(SUBTASK_RETURN)[one.rows]]
            texts |= {table.subtask.texts[code] for code in np.unique(table.subtask.codes[rows])}
    return tuple(sorted(texts))
