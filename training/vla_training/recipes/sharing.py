# SPDX-License-Identifier: Apache-2.0
"""How processes share the items of a step, and the random numbers of each item.

Both follow from the seed, the step and the item's place in the step alone: training is the same,
up to rounding, however many processes and parts a step is cut into, and when it is resumed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


class Shares(Sampler[list[Any]]):
    """One process's part of each step's draws, in ``accumulate`` batches.

    Args:
        steps: Draws of each step.
        rank: Of this process.
        ranks: Processes there are.
        accumulate: Batches in a step for each of them.
    """

    def __init__(self, steps: Sequence[Any], rank: int, ranks: int, accumulate: int) -> None:
        self._steps = steps
        self._rank, self._ranks, self._accumulate = rank, ranks, accumulate

    def __len__(self) -> int:
        return len(self._steps) * self._accumulate

    def __iter__(self) -> Iterator[list[Any]]:
        for draws in self._steps:
            for part in range(self._accumulate):
                places = part_places(len(draws), part, self._rank, self._ranks, self._accumulate)
                yield [draws[place] for place in places]


def part_places(size: int, part: int, rank: int, ranks: int, accumulate: int) -> range:
    """Places in a step of ``size`` items that one process has in one of its parts."""
    count = size // (ranks * accumulate)
    first = (part * ranks + rank) * count
    return range(first, first + count)


def shared(loader: DataLoader, rank: int, ranks: int, accumulate: int) -> DataLoader:
    """A loader of one process's parts of the batches of another loader."""
    return DataLoader(
        loader.dataset,
        batch_sampler=Shares(loader.batch_sampler, rank, ranks, accumulate),  # type: ignore[arg-type]
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def training_rngs(seed: int, step: int, places: Sequence[int]) -> list[np.random.Generator]:
    """A generator for each item of a step."""
    return [np.random.default_rng((seed, 0, step, place)) for place in places]


def validation_rngs(seed: int, places: Sequence[int]) -> list[np.random.Generator]:
    """A generator for each item of a validation, the same in every one."""
    return [np.random.default_rng((seed, 1, place)) for place in places]


def model_seed(seed: int, step: int, rank: int) -> int:
    """Of what the model itself draws in a step, dropout for one; another in each process."""
    return int(np.random.SeedSequence((seed, 2, step, rank)).generate_state(1, np.uint64)[0])
