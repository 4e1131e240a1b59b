# SPDX-License-Identifier: Apache-2.0
"""How an energy model learns: the expert's chunk is to have the lowest energy in its context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vla_nodes.models.energy import EnergyModel
from vla_training.energy.chunk_table import ChunkTable
from vla_training.energy.energy_set import EnergyBatch
from vla_training.energy.losses import Contrast, explicit_infonce, hinge, swap_infonce
from vla_training.energy.negative_settings import Kind
from vla_training.energy.negatives import negatives
from vla_training.recipes.energy_settings import EnergyLossSettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.job import Prepared

LOSS = "energy"


@dataclass(frozen=True, eq=False)
class EnergyInputs:
    """B frames on a device.

    Attributes:
        hidden: (B, S, D) what the policy saw.
        ignore: (B, S) bool, True where padded.
        actions: (B, T, A) the expert's chunks, normalised.
        negatives: By kind, (B, M, T, A) others and (B, M) bool which of them are there.
    """

    hidden: Tensor
    ignore: Tensor
    actions: Tensor
    negatives: Mapping[Kind, tuple[Tensor, Tensor]]


class EnergyLearner(nn.Module):
    """An energy model as training runs it, within one call, as several processes need it.

    Args:
        model: The energy model.
        swaps: Whether all chunks of the batch are held against each context, or its own alone.
    """

    def __init__(self, model: EnergyModel, swaps: bool) -> None:
        super().__init__()
        self.model, self._swaps = model, swaps
        # On a GPU each check would wait for the device; the loop looks at the losses there, too.
        model.checks = not torch.cuda.is_available()

    def forward(self, inputs: EnergyInputs) -> tuple[Tensor, dict[Kind, Tensor]]:
        """Energies.

        Returns:
            Of the expert's chunks, (B, B) with those of each context in its row, or (B, 1); and
            by kind (B, M) of the negatives, infinite for those that are not there.

        Raises:
            TrainingError: Something in the model is not finite.
        """
        try:
            return self._energies(inputs)
        except FloatingPointError as error:
            raise TrainingError(str(error)) from None

    def _energies(self, inputs: EnergyInputs) -> tuple[Tensor, dict[Kind, Tensor]]:
        context = self.model.context(inputs.hidden, inputs.ignore)
        if self._swaps:
            expert = self.model.swapped(context, inputs.actions)
        else:
            expert = self.model.energies(context, inputs.actions[:, None])
        others = {
            kind: self.model.energies(context, chunks).masked_fill(~there, torch.inf)
            for kind, (chunks, there) in inputs.negatives.items()
        }
        return expert, others


class EnergyObjective:
    """Contrast of expert chunks with others; see ``job.Objective``.

    Args:
        settings: Which others, and which contrast.
        table: What was recorded in the split whose frames come.
    """

    weights: Mapping[str, float] = {LOSS: 1.0}

    def __init__(self, settings: EnergyLossSettings, table: ChunkTable) -> None:
        self._settings, self._table = settings, table

    def prepare(
        self, batch: EnergyBatch, rngs: Sequence[np.random.Generator], device: torch.device
    ) -> Prepared:
        """The batch with its negatives, and how many frames and negatives it has."""
        settings = self._settings
        made = {
            kind: negatives(kind, batch, self._table, batch.rows, rngs, settings.making)
            for kind in settings.negatives
        }
        there = {kind: int(there.sum()) for kind, (_, there) in made.items()}
        inputs = EnergyInputs(
            hidden=batch.hidden.to(device),
            ignore=batch.ignore.to(device),
            actions=batch.actions.to(device),
            negatives={
                kind: (torch.from_numpy(chunks).to(device), torch.from_numpy(there).to(device))
                for kind, (chunks, there) in made.items()
            },
        )
        return Prepared(inputs, energy_counts(len(batch), there, settings))

    def losses(self, model: nn.Module, inputs: EnergyInputs) -> dict[str, Tensor]:
        """Runs the model."""
        expert, others = model(inputs)
        return energy_losses(expert, others, self._settings)


def energy_counts(
    rows: int, others: Mapping[Kind, int], settings: EnergyLossSettings
) -> dict[str, Tensor | float]:
    """Of how many elements the sums of ``energy_losses`` are.

    Args:
        rows: Frames, B.
        others: By kind, negatives that are there.
        settings: Which contrast.
    """
    swapped = rows * (rows - 1) if settings.swaps else 0
    return {
        **dict.fromkeys((LOSS, "energy_accuracy", "positive_energy"), rows),
        "negative_energy": swapped + sum(others.values()),
        **{f"auroc_{kind}": rows if count else 0 for kind, count in others.items()},
    }


def energy_losses(
    expert: Tensor, others: Mapping[Kind, Tensor], settings: EnergyLossSettings
) -> dict[str, Tensor]:
    """Sums over B frames of the loss, and of what tells how it goes.

    Args:
        expert: (B, B) energies of the batch's chunks in each context, or (B, 1) of their own.
        others: By kind, (B, M) of negatives, infinite for those that are not there.
        settings: Which contrast.

    Returns:
        ``energy`` and ``energy_accuracy`` of B frames, ``positive_energy`` of their own chunks,
        ``negative_energy`` of all others, and by kind ``auroc_KIND``: of B frames the shares of
        all the batch's negatives that lie above the frame's own chunk.
    """
    own = expert.diagonal() if settings.swaps else expert[:, 0]
    made = torch.cat([expert[:, :0], *others.values()], dim=1)
    contrast = _contrast(expert, own, made, settings)
    every = torch.cat([expert, made], dim=1).detach()
    total, mine = torch.where(every.isfinite(), every, 0.0).sum(), own.detach()
    return {
        LOSS: contrast.loss.sum(),
        "energy_accuracy": contrast.correct.sum(),
        "positive_energy": mine.sum(),
        "negative_energy": total - mine.sum(),
        **{f"auroc_{kind}": _shares_above(mine, one.detach()) for kind, one in others.items()},
    }


def _contrast(expert: Tensor, own: Tensor, made: Tensor, settings: EnergyLossSettings) -> Contrast:
    if settings.swaps:
        energies = torch.cat([expert, made], dim=1)
        return swap_infonce(energies, settings.tau, both=settings.loss == "swap-both")
    if settings.loss == "explicit":
        return explicit_infonce(own, made, settings.tau)
    return Contrast(hinge(own, made, settings.margin), (own[:, None] < made).all(dim=1))


def _shares_above(own: Tensor, others: Tensor) -> Tensor:
    """Of all (B, M) others the shares above each of (B,) energies, summed; ties count half."""
    there, values = others.isfinite(), own[:, None, None]
    above = (others > values).float() + 0.5 * (others == values).float()
    return (above * there).sum() / there.sum().clamp(min=1)
