# SPDX-License-Identifier: Apache-2.0
"""Frames of a LeRobot dataset as a value function learns from them: pictures, texts, returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import RETURN, SUBTASK_RETURN
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.frame_table import FrameTable
from vla_training.data.loading.training_set import TrainingSet

Rows = npt.NDArray[np.int64]


class Features(Protocol):
    """What stands for pictures."""

    def read(self, camera: str, rows: Rows) -> torch.Tensor:
        """(N,) rows of a table of frames to (N, P, W)."""


@dataclass(frozen=True, eq=False)
class ValueItem:
    """One frame with those before it.

    Attributes:
        views: By camera, the H newest frames, the oldest first; as pictures (H, 3, h, w) uint8
            RGB, or as their features (H, P, W).
        task: In plain words.
        subtask: Likewise; empty where there is none, or it has no return.
        task_return: In [-1, 0].
        subtask_return: Likewise; NaN where there is none.
    """

    views: Mapping[str, torch.Tensor]
    task: str
    subtask: str
    task_return: float
    subtask_return: float

    def augmented(self, augmentation: Augmentation, seed: Sequence[int]) -> "ValueItem":
        """The same item with its pictures changed; frames of a camera are changed alike."""
        count = len(next(iter(self.views.values())))
        frames = [
            augmentation({name: view[age] for name, view in self.views.items()}, seed)
            for age in range(count)
        ]
        views = {name: torch.stack([frame[name] for frame in frames]) for name in self.views}
        return replace(self, views=views)


@dataclass(frozen=True, eq=False)
class ValueBatch:
    """B items. Meanings are those of ``ValueItem`` with a dimension in front.

    Attributes:
        views: By camera, (B, H, ...).
        masks: By camera, (B,) bool; False where the item's dataset lacks the camera, and what
            stands in its place is zeros.
        task: B texts.
        subtask: B texts.
        task_return: (B,) float32.
        subtask_return: (B,) float32.
    """

    views: Mapping[str, torch.Tensor]
    masks: Mapping[str, torch.Tensor]
    task: tuple[str, ...]
    subtask: tuple[str, ...]
    task_return: torch.Tensor
    subtask_return: torch.Tensor

    def __len__(self) -> int:
        return len(self.task)

    def pin_memory(self) -> "ValueBatch":
        """The same batch with its pictures in pinned memory, as a ``DataLoader`` asks for it."""
        return replace(self, views={name: view.pin_memory() for name, view in self.views.items()})


class ValueSet(Dataset[ValueItem]):
    """Labelled frames of a dataset.

    Attributes:
        frames: The dataset; its rows are the items.

    Args:
        frames: Of which every row has a return.
        history: Frames of each camera; before an episode's first one, that one stands.
        history_step: Seconds between them.
        features: What is to stand for the pictures; None for the pictures themselves.

    Raises:
        DataError: A return is out of bounds.
    """

    def __init__(
        self,
        frames: TrainingSet,
        history: int = 1,
        history_step: float = 0.5,
        features: Features | None = None,
    ) -> None:
        self.frames = frames
        self._steps = history_steps(history, history_step, frames.schema.fps)
        self._features = features
        for name in (RETURN, SUBTASK_RETURN):
            _check_returns(frames, name)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> ValueItem:
        table, row = self.frames.table, int(self.frames.rows[index])
        rows = history_rows(table, np.array([row]), self._steps)[0]
        subtask_return = float(table.labels[SUBTASK_RETURN][row])
        return ValueItem(
            views={camera: self._view(camera, rows) for camera in self.frames.schema.cameras},
            task=table.task[row],
            subtask=table.subtask[row] if np.isfinite(subtask_return) else "",
            task_return=float(table.labels[RETURN][row]),
            subtask_return=subtask_return,
        )

    def _view(self, camera: str, rows: Rows) -> torch.Tensor:
        if self._features is not None:
            return self._features.read(camera, rows)
        return torch.stack([self.frames.picture(camera, int(row)) for row in rows])


def history_steps(history: int, history_step: float, fps: float) -> list[int]:
    """How many frames before the newest the frames of a history lie, the oldest first."""
    step = max(1, round(history_step * fps))
    return [step * back for back in range(history - 1, -1, -1)]


def history_rows(table: FrameTable, rows: Rows, steps: Sequence[int]) -> Rows:
    """Rows of the frames so many frames before each, (N, len(steps)).

    Before the first frame of an episode there is none: that first one stands in.
    """
    past = np.minimum(table.frame[rows, None], np.asarray(steps, np.int64))
    return rows[:, None] - past


def collate_values(items: Sequence[ValueItem]) -> ValueBatch:
    """Makes a batch of items. Cameras that some items lack are masked there."""
    cameras = dict.fromkeys(camera for item in items for camera in item.views)
    return ValueBatch(
        views={c: _stacked([item.views.get(c) for item in items]) for c in cameras},
        masks={c: torch.tensor([c in item.views for item in items]) for c in cameras},
        task=tuple(item.task for item in items),
        subtask=tuple(item.subtask for item in items),
        task_return=torch.tensor([item.task_return for item in items], dtype=torch.float32),
        subtask_return=torch.tensor([item.subtask_return for item in items], dtype=torch.float32),
    )


def _stacked(views: Sequence[torch.Tensor | None]) -> torch.Tensor:
    some = next(view for view in views if view is not None)
    return torch.stack([torch.zeros_like(some) if view is None else view for view in views])


def _check_returns(frames: TrainingSet, name: str) -> None:
    rows = frames.rows
    values = frames.table.labels[name][rows]
    outside = np.flatnonzero((values < -1.0) | (values > 0.0))
    if outside.size:
        row = rows[outside[0]]
        raise DataError(
            f"{frames.root}: {name} is {values[outside[0]]:g} in frame {frames.table.frame[row]} "
            f"of episode {frames.table.episode[row]}, expected from -1 to 0"
        )
