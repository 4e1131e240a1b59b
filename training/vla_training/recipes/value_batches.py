# SPDX-License-Identifier: Apache-2.0
"""Batches of a dataset as a value function learns from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vla_nodes.models.c51 import ATOMS, nearest_atom, two_hot
from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_config import ValueConfig
from vla_nodes.models.value_prompt import value_tokens
from vla_training.data.loading.value_set import ValueBatch
from vla_training.recipes.errors import TrainingError


@dataclass(frozen=True, eq=False)
class ValueInputs:
    """A batch as a model takes it.

    Attributes:
        views: Pictures (B, V, 3, S, S), or their features (B, V, P, W).
        mask: (B, V) bool.
        ids: (B, L).
        id_mask: (B, L) bool.
        targets: (B, 201).
    """

    views: Tensor
    mask: Tensor
    ids: Tensor
    id_mask: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class ValueBatches:
    """Makes a model's batches.

    Attributes:
        config: Of the model.
        tokenizer: Of its texts.
        cameras: In the model's order.
        subtasks: Share of the items told by their subtask.
        nearest: Whether targets are the nearest atom alone.
    """

    config: ValueConfig
    tokenizer: Tokenizer
    cameras: tuple[str, ...]
    subtasks: float = 0.0
    nearest: bool = False

    def make(
        self, batch: ValueBatch, rngs: Sequence[np.random.Generator], device: torch.device | str
    ) -> ValueInputs:
        """Makes a batch.

        Args:
            batch: B items.
            rngs: One for each of them.
            device: For all that is made.

        Raises:
            TrainingError: A task is no text that a model can be told.
        """
        told = [
            bool(rng.random() < self.subtasks and subtask)
            for rng, subtask in zip(rngs, batch.subtask, strict=True)
        ]
        texts = [
            subtask if tell else task
            for tell, subtask, task in zip(told, batch.subtask, batch.task, strict=True)
        ]
        values = torch.where(torch.tensor(told), batch.subtask_return, batch.task_return)
        try:
            tokens = value_tokens(self.tokenizer, texts, self.config, len(self.cameras))
        except ValueError as error:
            raise TrainingError(str(error)) from error
        targets = (
            functional.one_hot(nearest_atom(values), ATOMS).float()
            if self.nearest
            else two_hot(values)
        )
        views, mask = self._views(batch, device)
        ids, id_mask = tokens.ids.to(device), tokens.mask.to(device)
        return ValueInputs(views, mask, ids, id_mask, targets.to(device))

    def _views(self, batch: ValueBatch, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Cameras in the model's order; one that no item of the batch has is zeros and absent."""
        some = next(iter(batch.views.values()))
        views, masks = [], []
        for camera in self.cameras:
            view = batch.views.get(camera, torch.zeros_like(some)).to(device, non_blocking=True)
            if view.dtype == torch.uint8:
                view = fit_pictures(view.flatten(0, 1), self.config.image_size).unflatten(
                    0, view.shape[:2]
                )
            views.append(view)
            there = batch.masks.get(camera, torch.zeros(len(batch), dtype=torch.bool))
            masks.append(there[:, None].expand(-1, self.config.history))
        return torch.cat(views, dim=1), torch.cat(masks, dim=1).to(device)
