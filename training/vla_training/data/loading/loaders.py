# SPDX-License-Identifier: Apache-2.0
"""Batches in a seeded order, by worker processes or without; from any step on."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self

import cv2
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset, Sampler

from vla_training.data.errors import DataError
from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.collation import collate as collate_items


class Draw(NamedTuple):
    """The place of an item, and how often it was drawn before."""

    epoch: int
    place: int


class Draws(Sampler[list[Draw]]):
    """The draws of every step: all items in random order, then all in another, and so on.

    A batch may hold the end of one epoch and the beginning of the next, so that no item is
    drawn less often than another. What a step draws follows from the seed and the number of
    the step alone.

    Args:
        size: Items there are.
        batch_size: Draws in a step.
        seed: Not negative.
        first_step: Where to begin.
        steps: Where to stop.
    """

    def __init__(self, size: int, batch_size: int, seed: int, first_step: int, steps: int) -> None:
        if size < 1 or batch_size < 1 or seed < 0 or not 0 <= first_step <= steps:
            raise DataError(
                f"{size} items, batches of {batch_size}, seed {seed}, steps {first_step} to {steps}"
                " cannot be drawn; expected positive sizes, and no negative number"
            )
        self._size = size
        self._batch_size = batch_size
        self._seed = seed
        self._steps = range(first_step, steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = -1
        order: npt.NDArray[np.int64]
        for step in self._steps:
            draws = []
            for position in range(step * self._batch_size, (step + 1) * self._batch_size):
                if position // self._size != epoch:
                    epoch = position // self._size
                    order = np.random.default_rng((self._seed, epoch)).permutation(self._size)
                draws.append(Draw(epoch, int(order[position % self._size])))
            yield draws


class Augmentable(Protocol):
    """An item with pictures."""

    def augmented(self, augmentation: Augmentation, seed: Sequence[int]) -> Self:
        """The same item with its pictures changed."""


Collate = Callable[[Sequence[Any]], Any]
"""Makes a batch, whose ``len`` is the number of its items."""


class _Drawn[I: Augmentable](Dataset[I]):
    """Items by draw, augmented by a seed of their own whichever worker reads them."""

    def __init__(self, items: Dataset[I], augmentation: Augmentation | None, seed: int) -> None:
        self._items = items
        self._augmentation = augmentation
        self._seed = seed

    def __getitem__(self, draw: Draw) -> I:
        item = self._items[draw.place]
        if self._augmentation is None:
            return item
        return item.augmented(self._augmentation, (self._seed, *draw))


def training_loader[I: Augmentable](
    items: Dataset[I],
    batch_size: int,
    steps: int,
    seed: int,
    *,
    augmentation: Augmentation | None = None,
    first_step: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
    collate: Collate = collate_items,
) -> DataLoader[I]:
    """Shuffled batches, one per step.

    The loader gives a batch per step, which follows from dataset, seed and step: it is the
    same with any number of workers, and when training is resumed.

    Args:
        items: A ``TrainingSet``, several joined, or other items that can be augmented.
        batch_size: Items in a batch.
        steps: Of the whole training.
        seed: Of order and augmentation, not negative.
        augmentation: Changed anew whenever an item is drawn again. None leaves pictures alone.
        first_step: Step to begin with when training is resumed.
        workers: Processes that load; 0 loads in this one.
        pin_memory: For a GPU.
        collate: Makes a batch; the default makes a ``Batch`` of ``Item``.
    """
    return DataLoader(
        _Drawn(items, augmentation, seed),
        batch_sampler=Draws(len(items), batch_size, seed, first_step, steps),  # type: ignore[arg-type]
        **_options(workers, pin_memory, collate),
    )


def evaluation_loader[I](
    items: Dataset[I],
    batch_size: int,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    collate: Collate = collate_items,
) -> DataLoader[I]:
    """Every item once in a batch, in order, never augmented; the last may be smaller."""
    return DataLoader(items, batch_size, **_options(workers, pin_memory, collate))


def _options(workers: int, pin_memory: bool, collate: Collate) -> dict:
    return {
        "collate_fn": collate,
        "num_workers": workers,
        "pin_memory": pin_memory,
        "worker_init_fn": _start_worker,
    }


def _start_worker(worker: int) -> None:
    """One thread per worker: OpenCV would take as many as there are cores in each.

    Ctrl-C reaches the workers, too; when they end is up to the process that they load for.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
