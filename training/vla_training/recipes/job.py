# SPDX-License-Identifier: Apache-2.0
"""What a recipe gives to the training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.collation import collate
from vla_training.data.loading.loaders import Collate
from vla_training.recipes.optimizer import Apart


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch as a model takes it.

    Attributes:
        inputs: For ``Objective.losses``.
        counts: By loss, the elements that it will be the sum of.
    """

    inputs: Any
    counts: Mapping[str, Tensor | float]


class Objective(Protocol):
    """What a model is trained for.

    Losses are given as sums, and how many elements they are sums of is known beforehand, so that
    the loop can divide by the elements of the whole step, whichever process has them.

    Attributes:
        weights: By loss, its weight in the total; a loss without one is only reported.
    """

    weights: Mapping[str, float]

    def prepare(
        self, batch: Any, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """Makes a model's inputs; all random numbers of an item come from its generator."""

    def losses(self, model: nn.Module, inputs: Any) -> Mapping[str, Tensor]:
        """Runs the model; scalar sums by loss."""


@dataclass(frozen=True, eq=False)
class Job:
    """A training.

    Attributes:
        model: Parameters that require gradients are trained.
        objective: What for.
        items: Of the training split.
        validation: Items of the validation split; None for no validation.
        augmentation: Of training pictures; None for none.
        export: Writes the checkpoint with the weights that the model has at that moment; called
            by one process, whenever the state is saved, or validation found the weights to be
            the best.
        identity: Digests by name of what else the weights follow from: they are those of the
            training that is resumed.
        collate: Makes a batch of items.
        keep_best: Whether the checkpoint is to hold the weights of the lowest validation loss,
            instead of the newest ones.
        validation_objective: For validation's items, with losses of the same names and weights of
            its own; None where ``objective`` is for them, too.
        apart: Parameters of the model with a rate of their own; None for none.
    """

    model: nn.Module
    objective: Objective
    items: Dataset[Any]
    validation: Dataset[Any] | None
    augmentation: Augmentation | None
    export: Callable[[], None]
    identity: Mapping[str, str]
    collate: Collate = collate
    keep_best: bool = False
    validation_objective: Objective | None = None
    apart: Apart | None = None
