# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from loading_samples import Sample, make_dataset

from vla_training.data.errors import DataError
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.collation import Batch
from vla_training.data.loading.loaders import Draws, evaluation_loader, training_loader
from vla_training.data.loading.training_set import TrainingSet, join


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    root = make_dataset(tmp_path_factory.mktemp("loaded") / "data", Sample(lengths=(6, 5)))
    return TrainingSet(root, 4)


def drawn(size: int, batch_size: int, seed: int, first: int, steps: int) -> list:
    return list(Draws(size, batch_size, seed, first, steps))


def test_every_item_is_drawn_once_before_any_is_drawn_again():
    draws = [draw for step in drawn(11, 4, 0, 0, 11) for draw in step]
    assert len(draws) == 44
    for epoch in range(4):
        part = draws[11 * epoch : 11 * (epoch + 1)]
        assert {d.epoch for d in part} == {epoch}
        assert sorted(d.place for d in part) == list(range(11))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = drawn(50, 50, 0, 0, 2)
    assert [d.place for d in first] != [d.place for d in second]
    assert drawn(50, 50, 1, 0, 1) != [first]
    assert [d.place for d in first] != list(range(50))


def test_any_step_can_be_the_first():
    whole = drawn(7, 3, 5, 0, 20)
    for first in (0, 1, 7, 19, 20):
        assert drawn(7, 3, 5, first, 20) == whole[first:]
        assert len(Draws(7, 3, 5, first, 20)) == 20 - first


def test_a_batch_may_be_larger_than_the_dataset():
    (step,) = drawn(3, 8, 0, 0, 1)
    assert sorted(Counter(d.place for d in step).values()) == [2, 3, 3]


@pytest.mark.parametrize(
    "arguments", [(0, 1, 0, 0, 1), (5, 0, 0, 0, 1), (5, 1, -1, 0, 1), (5, 1, 0, 3, 2)]
)
def test_draws_that_make_no_sense_are_refused(arguments):
    with pytest.raises(DataError, match="cannot be drawn"):
        Draws(*arguments)


def same(one: Batch, other: Batch) -> bool:
    return (
        one.task == other.task
        and torch.equal(one.frame_index, other.frame_index)
        and torch.equal(one.actions, other.actions)
        and all(torch.equal(one.images[c], other.images[c]) for c in one.images)
    )


def test_batches_do_not_depend_on_who_loads_them(items):
    items[3]  # this process has files open that its workers must not touch
    cv2.blur(np.zeros((720, 1280, 3), np.uint8), (5, 5))  # and OpenCV's threads run
    loaders = [
        training_loader(items, 4, 9, seed=1, augmentation=Augmentation(), workers=workers)
        for workers in (0, 2)
    ]
    here, there = (list(loader) for loader in loaders)
    assert len(here) == len(there) == 9
    assert all(same(one, other) for one, other in zip(here, there, strict=True))
    assert torch.equal(items[3].images["front"], items[3].images["front"])


def test_training_goes_on_where_it_was_interrupted(items):
    arguments = {"seed": 2, "augmentation": Augmentation()}
    whole = list(training_loader(items, 4, 6, **arguments))
    rest = list(training_loader(items, 4, 6, first_step=4, **arguments))
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))


def test_an_item_is_augmented_anew_whenever_it_is_drawn(items):
    loader = training_loader(items, 11, 3, seed=0, augmentation=Augmentation())
    seen = [
        batch.images["front"][k]
        for batch in loader
        for k in range(len(batch))
        if (batch.episode_index[k], batch.frame_index[k]) == (1, 2)
    ]
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_without_augmentation_pictures_are_the_dataset_s(items):
    (batch,) = training_loader(items, 11, 1, seed=0)
    for k in range(11):
        row = 6 * int(batch.episode_index[k]) + int(batch.frame_index[k])
        assert torch.equal(batch.images["wrist"][k], items[row].images["wrist"])


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_sees_every_item_once_in_order(items, workers):
    batches = list(evaluation_loader(items, 4, workers=workers))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    frames = torch.cat([batch.frame_index for batch in batches]).tolist()
    assert frames == [*range(6), *range(5)]
    assert torch.equal(batches[1].images["front"][0], items[4].images["front"])


def test_joined_sets_are_loaded_too(items):
    batches = list(training_loader(join([items, items]), 11, 2, seed=0, workers=1))
    counts = Counter(
        (int(e), int(f))
        for b in batches
        for e, f in zip(b.episode_index, b.frame_index, strict=True)
    )
    assert set(counts.values()) == {2}


@pytest.mark.slow
def test_workers_can_be_started_afresh(items):
    loader = training_loader(items, 4, 2, seed=0, workers=1)
    loader.multiprocessing_context = "spawn"
    reference = training_loader(items, 4, 2, seed=0)
    assert all(same(a, b) for a, b in zip(loader, reference, strict=True))
