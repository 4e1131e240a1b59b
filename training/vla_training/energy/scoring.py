# SPDX-License-Identifier: Apache-2.0
"""Energies of expert chunks and of others in the contexts of recorded frames."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from vla_nodes.models.energy import EnergyModel
from vla_nodes.models.prompts import cleaned
from vla_training.data.errors import DataError
from vla_training.energy.chunk_table import ChunkTable
from vla_training.energy.conformal import ExpertEnergies
from vla_training.energy.energy_set import EnergyBatch, EnergySet, collate_energy
from vla_training.energy.negative_settings import Kind, NegativeSettings
from vla_training.energy.negatives import Made, negatives

EXPERT = "expert"
"""What the recorded chunks are called beside the kinds of others."""

Chunks = Callable[[EnergyBatch], Made]
"""Of B frames, (B, K, T, A) normalised chunks and (B, K) which of them are there."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of the N frames of a set, in its order.

    Attributes:
        energies: By name of the chunks, (N, K) float32, NaN for chunks that are not there.
        tasks: (N,) texts.
        episodes: (N,) of the set's table.
    """

    energies: dict[str, NDArray[np.float32]]
    tasks: NDArray[np.object_]
    episodes: NDArray[np.int64]

    @property
    def experts(self) -> ExpertEnergies:
        """Of the expert chunks, where they are among what was scored."""
        tasks = np.array([cleaned(task) for task in self.tasks], object)
        return ExpertEnergies(self.energies[EXPERT][:, 0], tasks, self.episodes)


def score(
    model: EnergyModel,
    frames: EnergySet,
    chunks: Mapping[str, Chunks],
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> Scores:
    """Energies of several sets of chunks, with each context encoded once.

    Args:
        model: In evaluation, on the device.
        frames: One or more.
        chunks: By name.
        device: On which it is computed.
        batch_size: Frames at a time.

    Raises:
        DataError: Something in the contexts, in the chunks or on the way is not finite.
    """
    loader = DataLoader(frames, batch_size, collate_fn=collate_energy)
    bar = tqdm(loader, unit="batch", leave=False, disable=not sys.stderr.isatty())
    energies, tasks = [], []
    for batch in bar:
        energies.append(_energies(model, batch, [of(batch) for of in chunks.values()], device))
        tasks += batch.tasks
    by_name = zip(chunks, zip(*energies, strict=True), strict=True)
    return Scores(
        energies={name: np.concatenate(parts) for name, parts in by_name},
        tasks=np.array(tasks, object),
        episodes=frames.chunks.episode[frames.rows],
    )


def expert_chunks(batch: EnergyBatch) -> Made:
    """Of each frame the chunk that was recorded."""
    return batch.actions[:, None].numpy(), np.ones((len(batch.actions), 1), bool)


def perturbed_chunks(
    kind: Kind, table: ChunkTable, settings: NegativeSettings, seed: int = 0
) -> Chunks:
    """Negatives of one kind; what is random in them follows from seed and frame.

    Args:
        kind: Of them.
        table: Of the frames that are to be scored.
        settings: How they are made.
        seed: Another seed gives others.
    """

    def make(batch: EnergyBatch) -> Made:
        rngs = [np.random.default_rng((seed, row)) for row in batch.rows.tolist()]
        return negatives(kind, batch, table, batch.rows, rngs, settings)

    return make


@torch.inference_mode()
def _energies(
    model: EnergyModel, batch: EnergyBatch, made: Sequence[Made], device: torch.device | str
) -> list[NDArray[np.float32]]:
    """(B, K) of each set of chunks."""
    chunks = np.concatenate([chunks for chunks, _ in made], axis=1)
    there = np.concatenate([there for _, there in made], axis=1)
    try:
        context = model.context(batch.hidden.to(device), batch.ignore.to(device))
        energies = model.energies(context, torch.from_numpy(chunks).to(device)).cpu().numpy()
    except FloatingPointError as error:
        rows = batch.rows
        raise DataError(f"frames {rows.min()} to {rows.max()} of the split: {error}") from None
    energies[~there] = np.nan
    widths = [chunks.shape[1] for chunks, _ in made]
    return np.split(energies, np.cumsum(widths)[:-1], axis=1)
