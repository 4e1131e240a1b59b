# SPDX-License-Identifier: Apache-2.0
"""Recorded episodes with the values that were predicted for them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from vla_nodes.models.c51 import quantiles
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.schema import Outcome
from vla_training.evaluation.value_evaluation import LabelledDataset, frames_of
from vla_training.evaluation.value_metrics import expectations
from vla_training.evaluation.value_predictions import ValuePredictions

BAND = (0.1, 0.9)
"""Levels of the quantiles that are drawn."""


@dataclass(frozen=True, eq=False)
class EpisodeValues:
    """One episode; F frames are predicted for.

    Attributes:
        items: All frames of the episode, with their pictures.
        episode: Its index.
        task: In plain words.
        outcome: Of the episode.
        fps: Frames in a second.
        frames: (F,) places in the episode, rising.
        probabilities: (F, 201).
        returns: (F,) NaN where they are not known.
    """

    items: TrainingSet
    episode: int
    task: str
    outcome: Outcome
    fps: int
    frames: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    returns: npt.NDArray[np.float64]

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """(F,) seconds since the episode's first frame."""
        return self.frames / self.fps

    @cached_property
    def values(self) -> npt.NDArray[np.float64]:
        """(F,) expectations."""
        return expectations(self.probabilities)

    @cached_property
    def band(self) -> npt.NDArray[np.float64]:
        """(F, 2) quantiles of the levels ``BAND``."""
        return quantiles(torch.from_numpy(self.probabilities), torch.tensor(BAND)).double().numpy()

    @property
    def subtasks(self) -> list[str]:
        """Of the F frames; empty where there is none."""
        words, first = self.items.table.subtask, self._first
        return [words[first + frame] for frame in self.frames.tolist()]

    def picture(self, camera: str, frame: int) -> npt.NDArray[np.uint8]:
        """What a camera saw, (H, W, 3) RGB.

        Raises:
            DataError: It cannot be read.
        """
        seen = self.items[self._first + frame].images[camera]
        return np.ascontiguousarray(seen.permute(1, 2, 0).numpy())

    @property
    def _first(self) -> int:
        return int(np.searchsorted(self.items.table.episode, self.episode))


def episode_values(
    dataset: LabelledDataset, items: TrainingSet, predictions: ValuePredictions
) -> list[EpisodeValues]:
    """Splits predictions by episode.

    Args:
        dataset: With labels, which count only if it has no fault.
        items: All frames of the episodes.
        predictions: For frames of the same episodes.
    """
    frames = frames_of(dataset, predictions)
    unknown = np.full(len(frames), np.nan)
    returns = unknown if dataset.fault else frames.returns
    return [
        EpisodeValues(
            items=items,
            episode=int(frames.episode[rows[0]]),
            task=frames.task[rows[0]],
            outcome=outcome,
            fps=dataset.fps,
            frames=frames.frame[rows],
            probabilities=predictions.probabilities[rows],
            returns=returns[rows],
        )
        for outcome, rows in frames.episodes()
    ]
