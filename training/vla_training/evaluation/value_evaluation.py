# SPDX-License-Identifier: Apache-2.0
"""A value function and the baselines on recorded episodes, against the labels of their frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.models.c51 import HIGHEST, LOWEST
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.value_checkpoint import ValueCheckpoint, ValueInterface
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import RETURN
from vla_training.data.labels.metadata import read_info
from vla_training.data.labels.record import read_record
from vla_training.data.loading.episode_split import Split, split_episodes
from vla_training.data.loading.frame_table import read_frame_table
from vla_training.data.schema import OUTCOME
from vla_training.evaluation.chosen_episodes import chosen_episodes
from vla_training.evaluation.value_baselines import Baseline, fit_baselines
from vla_training.evaluation.value_metrics import LabelledFrames, Metrics, measure
from vla_training.evaluation.value_predictions import ValuePredictions

MODEL = "value function"

_MEANING = {"per_task": ("mode", "coefficient"), "global": ("mode", "max_steps")}
"""Settings of labels that say what a return means, by mode."""


@dataclass(frozen=True, eq=False)
class LabelledDataset:
    """The frames of a dataset, and what their labels are worth to a value function.

    Attributes:
        root: Folder.
        fps: Frames per second.
        labels: Settings of ``vla-label``; empty where there are none.
        fault: Why returns are not those that the value function predicts; empty where they are.
        frames: All; returns are NaN where there is no label.
    """

    root: Path
    fps: int
    labels: Mapping[str, Any]
    fault: str
    frames: LabelledFrames

    @property
    def count(self) -> int:
        """Episodes."""
        return 1 + int(self.frames.episode[-1])


@dataclass(frozen=True, eq=False)
class ValueResults:
    """What came out.

    Attributes:
        frames: That were measured.
        probabilities: (F, 201) of the value function.
        left_out: Frames without a label.
        baselines: By name.
        total: By predictor.
        tasks: By task, then by predictor.
    """

    frames: LabelledFrames
    probabilities: npt.NDArray[np.float32]
    left_out: int
    baselines: Mapping[str, Baseline]
    total: Mapping[str, Metrics]
    tasks: Mapping[str, Mapping[str, Metrics]]


def open_labelled(checkpoint: ValueCheckpoint, dataset: Path) -> LabelledDataset:
    """Opens a dataset for a value function.

    Args:
        checkpoint: Of the value function.
        dataset: Folder of a LeRobot v3 dataset.

    Raises:
        CheckpointError: The checkpoint was never trained on values.
        DataError: It cannot be read, is of another rate, or has labels that are no values.
    """
    interface = trained_interface(checkpoint)
    root = dataset.resolve()
    info, record = read_info(root), read_record(root)
    fps = info.get("fps")
    if fps != interface.fps:
        raise DataError(
            f"{root} has {fps!r:.20} frames per second; expected {interface.fps:g}, those of "
            f"{checkpoint.folder}"
        )
    table = read_frame_table(root, info["features"], fps, range(info["total_episodes"]))
    frames = LabelledFrames(
        episode=table.episode,
        frame=table.frame,
        task=np.array(table.task.texts, object)[table.task.codes],
        returns=table.labels[RETURN].astype(np.float64),
        outcome=table.labels[OUTCOME],
    )
    _check(root, frames)
    labels = record["settings"] if record and RETURN in info["features"] else {}
    ours, theirs = _meaning(labels), _meaning(interface.labels)
    fault = ""
    if not labels:
        fault = f"{root} has no labels; vla-label makes them"
    elif ours != theirs:
        fault = (
            f"{root} has labels of {_listed(ours)}, expected {_listed(theirs)}, with which "
            f"{checkpoint.folder} was trained; vla-label --replace labels anew"
        )
    return LabelledDataset(root, fps, labels, fault, frames)


def trained_interface(checkpoint: ValueCheckpoint) -> ValueInterface:
    """What a value function was trained for.

    Raises:
        CheckpointError: It was aligned only.
    """
    if checkpoint.interface is None:
        raise CheckpointError(
            f"{checkpoint.folder} was aligned only, and knows no values; train it with "
            "vla-train value"
        )
    return checkpoint.interface


def stored_split(checkpoint: ValueCheckpoint, count: int) -> Split:
    """The split of a dataset of ``count`` episodes, by the seed and shares of the training.

    Raises:
        DataError: There are too few.
    """
    interface = trained_interface(checkpoint)
    return split_episodes(count, interface.split_seed, interface.shares)


def choose_episodes(words: str, count: int, checkpoint: ValueCheckpoint) -> list[int]:
    """Episodes of a dataset of ``count``, by words of the command line.

    Raises:
        DataError: The words say nothing, or there is no such episode.
    """
    part = words.removeprefix("split:")
    if part != words and part in ("train", "validation", "test"):
        chosen = list(getattr(stored_split(checkpoint, count), part))
        if not chosen:
            raise DataError(f"{words} has no episode, as the training wanted; name others")
        return chosen
    return chosen_episodes(words, count, checkpoint.folder)


def evaluate_values(
    dataset: LabelledDataset, split: Split, predictions: ValuePredictions
) -> ValueResults:
    """Measures predictions, and baselines on the same frames.

    Args:
        dataset: Without a fault.
        split: Of its episodes; baselines are made from training and validation.
        predictions: For some of its frames.

    Raises:
        DataError: None of the frames has a label, or none of those that baselines are made from.
    """
    asked = frames_of(dataset, predictions)
    known = np.isfinite(asked.returns)
    if not known.any():
        raise DataError(f"{dataset.root}: no frame of these episodes has a label")
    frames = asked.take(known)
    baselines = fit_baselines(*(_part(dataset, split, part) for part in ("train", "validation")))
    found = {
        MODEL: predictions.probabilities[known],
        **{name: baseline.predict(frames) for name, baseline in baselines.items()},
    }

    def measured(chosen: npt.NDArray[np.bool_]) -> dict[str, Metrics]:
        some = frames.take(chosen)
        return {name: measure(some, mass[chosen]) for name, mass in found.items()}

    return ValueResults(
        frames=frames,
        probabilities=found[MODEL],
        left_out=int((~known).sum()),
        baselines=baselines,
        total=measured(np.ones(len(frames), bool)),
        tasks={task: measured(frames.task == task) for task in dict.fromkeys(frames.task)},
    )


def frames_of(dataset: LabelledDataset, predictions: ValuePredictions) -> LabelledFrames:
    """The frames that predictions are for."""
    starts = np.flatnonzero(np.diff(dataset.frames.episode, prepend=-1))
    return dataset.frames.take(starts[predictions.episode] + predictions.frame)


def _check(root: Path, frames: LabelledFrames) -> None:
    outside = np.flatnonzero((frames.returns < LOWEST) | (frames.returns > HIGHEST))
    if outside.size:
        row = outside[0]
        raise DataError(
            f"{root}: {RETURN} is {frames.returns[row]:g} at frame {frames.frame[row]} of episode "
            f"{frames.episode[row]}, expected {LOWEST:g} to {HIGHEST:g}; vla-label --replace "
            "makes it anew"
        )


def _part(dataset: LabelledDataset, split: Split, part: str) -> LabelledFrames:
    """The labelled frames of a part of the split."""
    frames = dataset.frames
    chosen = np.isin(frames.episode, getattr(split, part)) & np.isfinite(frames.returns)
    if not chosen.any():
        raise DataError(
            f"{dataset.root}: no episode of the {part} part of the split has a label, and "
            "baselines are made from that"
        )
    return frames.take(chosen)


def _meaning(labels: Mapping[str, Any]) -> dict[str, Any]:
    names = _MEANING.get(labels.get("mode", ""), ("mode",))
    return {name: labels.get(name) for name in names}


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!s:.50}" for name, value in settings.items())
