# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from vla_training.data.loading.value_set import ValueItem
from vla_training.data.vqa.questions import VqaItem
from vla_training.recipes.co_training import CoTraining, collate_mixed


class Frames(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        views = {"front": torch.full((1, 3, 2, 2), index, dtype=torch.uint8)}
        return ValueItem(views, f"task {index}", "", -0.5, float("nan"))


class Asked(Frames):
    def __getitem__(self, index):
        return VqaItem(None, f"question {index}", "yes")


@pytest.mark.parametrize(("frames", "questions"), [(40, 7), (10, 100), (100, 3)])
def test_a_quarter_are_questions_and_everything_is_in(frames, questions):
    mixed = CoTraining(Frames(frames), Asked(questions), 0.25)
    items = [mixed[k] for k in range(len(mixed))]
    asked = [item.question.question for item in items if item.question]
    assert len(asked) / (len(items) + len(asked)) == pytest.approx(0.25, abs=0.02)
    assert {item.value.task for item in items} == {f"task {k}" for k in range(frames)}
    assert set(asked) == {f"question {k}" for k in range(questions)}
    counts = np.unique([item.value.task for item in items], return_counts=True)[1]
    assert counts.min() == counts.max()


def test_without_questions_there_are_frames_alone():
    mixed = CoTraining(Frames(5), None, 0.25)
    assert len(mixed) == 5
    assert not any(mixed[k].question for k in range(5))


def test_a_batch_counts_its_frames():
    mixed = CoTraining(Frames(8), Asked(8), 0.5)
    batch = collate_mixed([mixed[k] for k in range(8)])
    assert len(batch) == 8
    assert [item.question for item in batch.questions] == [f"question {k}" for k in range(8)]
    assert batch.values.task == tuple(f"task {k}" for k in range(8))
