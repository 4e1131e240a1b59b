# SPDX-License-Identifier: Apache-2.0
"""Frames of a robot and questions about pictures in one training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.value_set import ValueBatch, ValueItem, collate_values
from vla_training.data.vqa.questions import VqaItem


@dataclass(frozen=True, eq=False)
class MixedItem:
    """A frame, and for some frames a question.

    Attributes:
        value: The frame.
        question: None for none.
    """

    value: ValueItem
    question: VqaItem | None = None

    def augmented(self, augmentation: Augmentation, seed: Sequence[int]) -> "MixedItem":
        """The same item with the pictures of its frame changed."""
        return replace(self, value=self.value.augmented(augmentation, seed))


@dataclass(frozen=True, eq=False)
class MixedBatch:
    """A batch of B frames, and the questions that came with them.

    Attributes:
        values: The frames.
        questions: B of them at most.
    """

    values: ValueBatch
    questions: tuple[VqaItem, ...]

    def __len__(self) -> int:
        return len(self.values)


class CoTraining(Dataset[MixedItem]):
    """Frames with a question beside every few of them.

    So every step holds frames, whichever items it draws. Where there are more questions than
    have a place, frames are repeated until all questions are in.

    Args:
        values: Frames.
        questions: None for none.
        share: Share of frames and questions together that are questions, in the mean; at most
            a half.
    """

    def __init__(
        self, values: Dataset[ValueItem], questions: Dataset[VqaItem] | None, share: float
    ) -> None:
        self._values, self._questions = values, questions
        self._frames = len(values)  # type: ignore[arg-type]
        self._asked = len(questions) if questions is not None else 0  # type: ignore[arg-type]
        self._ratio = share / (1.0 - share) if self._asked else 0.0
        self._rounds = max(1, math.ceil(self._asked / max(1.0, self._frames * self._ratio)))

    def __len__(self) -> int:
        return self._frames * self._rounds

    def __getitem__(self, index: int) -> MixedItem:
        value = self._values[index % self._frames]
        place = math.floor(index * self._ratio)
        if math.floor((index + 1) * self._ratio) == place:
            return MixedItem(value)
        assert self._questions is not None  # else the ratio is 0
        return MixedItem(value, self._questions[place % self._asked])


def collate_mixed(items: Sequence[MixedItem]) -> MixedBatch:
    """Makes a batch of items."""
    return MixedBatch(
        values=collate_values([item.value for item in items]),
        questions=tuple(item.question for item in items if item.question is not None),
    )
