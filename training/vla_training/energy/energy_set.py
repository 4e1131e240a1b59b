# SPDX-License-Identifier: Apache-2.0
"""Frames as an energy model learns from them: what the policy saw, and what the expert did."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from vla_nodes.models.normalization import Normalization
from vla_training.energy.chunk_table import ChunkTable, Rows
from vla_training.energy.contexts import Contexts


@dataclass(frozen=True, eq=False)
class EnergyItem:
    """One frame of which the whole chunk was recorded.

    Attributes:
        hidden: (S, D) bfloat16, the policy's last hidden states of pictures and prompt; none of
            them is padding, so frames differ in S.
        actions: (T, A) float32, normalised.
        row: Of the set's table.
        task: In plain words.
        subtask: Likewise; empty where there is none.
        samples: (M, T, A) float32, chunks that the policy draws for this frame; None without.
        layers: (L, T, A) float32, chunks that it draws with fewer layers of its expert, from
            one to all but one; None without.
    """

    hidden: Tensor
    actions: Tensor
    row: int
    task: str
    subtask: str
    samples: Tensor | None
    layers: Tensor | None


@dataclass(frozen=True, eq=False)
class EnergyBatch:
    """B items. Meanings are those of ``EnergyItem`` with a dimension in front.

    Attributes:
        hidden: (B, S, D) bfloat16, padded with zeros on the right.
        ignore: (B, S) bool, True where padded.
        actions: (B, T, A) float32.
        rows: (B,).
        tasks: B texts.
        subtasks: B texts.
        samples: (B, M, T, A) float32, or None.
        layers: (B, L, T, A) float32, or None.
    """

    hidden: Tensor
    ignore: Tensor
    actions: Tensor
    rows: npt.NDArray[np.int64]
    tasks: list[str]
    subtasks: list[str]
    samples: Tensor | None
    layers: Tensor | None

    def __len__(self) -> int:
        return len(self.tasks)


def collate_energy(items: Sequence[EnergyItem]) -> EnergyBatch:
    """Makes a batch of items of one set."""
    lengths = torch.tensor([len(item.hidden) for item in items])
    hidden = pad_sequence([item.hidden for item in items], batch_first=True)
    return EnergyBatch(
        hidden=hidden,
        ignore=torch.arange(hidden.shape[1]) >= lengths[:, None],
        actions=torch.stack([item.actions for item in items]),
        rows=np.array([item.row for item in items], np.int64),
        tasks=[item.task for item in items],
        subtasks=[item.subtask for item in items],
        samples=_stacked([item.samples for item in items]),
        layers=_stacked([item.layers for item in items]),
    )


class EnergySet(Dataset[EnergyItem]):
    """Frames of one split, whose contexts are on the disk; of one dataset or of several.

    Attributes:
        chunks: All actions of the split, of failed episodes, too.
        rows: (len,) rows of ``chunks`` that make an item.
        normalization: Between the robot's units and those of ``chunks``.

    Args:
        contexts: Of each dataset.
        episodes: Of each dataset, those of the split.
        wanted: Of each dataset, the rows of its table that make an item.
        normalization: Of the policy.
    """

    def __init__(
        self,
        contexts: Sequence[Contexts],
        episodes: Sequence[Sequence[int]],
        wanted: Sequence[Rows],
        normalization: Normalization,
    ) -> None:
        tables = [one.frames.table for one in contexts]
        chunk = contexts[0].frames.chunk
        self.chunks = ChunkTable.of(tables, episodes, normalization.action, chunk)
        self.normalization = normalization
        self._contexts = contexts
        rows, count = [], 0
        for table, ours, chosen in zip(tables, episodes, wanted, strict=True):
            of_split = np.flatnonzero(np.isin(table.episode, ours))
            rows.append(count + np.searchsorted(of_split, chosen))
            count += len(of_split)
        self.rows: Rows = np.concatenate(rows)
        self._dataset = np.repeat(np.arange(len(wanted)), [len(one) for one in wanted])
        self._place = np.concatenate(wanted)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EnergyItem:
        row, place = int(self.rows[index]), int(self._place[index])
        contexts = self._contexts[self._dataset[index]]
        hidden, samples, layers = contexts.read(place)
        table = contexts.frames.table
        return EnergyItem(
            hidden=hidden,
            actions=torch.from_numpy(self.chunks.at([row])[0]),
            row=row,
            task=table.task[place],
            subtask=table.subtask[place],
            samples=samples,
            layers=layers,
        )


def _stacked(chunks: Sequence[Tensor | None]) -> Tensor | None:
    there = [one for one in chunks if one is not None]
    return torch.stack(there) if there else None
