# SPDX-License-Identifier: Apache-2.0
"""Losses of energies.

The energy of an expert chunk in its own context is to be below those of other chunks there. All
losses are per row, so that rows can be summed over several batches and processes.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TAU = 0.5
"""Temperature of the contrast. Bounded energies are less than 2 apart, so that the loss of a row
with N negatives stays above ln(1 + N exp(-2 / tau))."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """How B rows do.

    Attributes:
        loss: (B,) cross entropy.
        correct: (B,) bool, whether the expert chunk has the lowest energy of its row.
    """

    loss: Tensor
    correct: Tensor


def swap_infonce(energies: Tensor, tau: float = TAU, both: bool = False) -> Contrast:
    """InfoNCE (https://arxiv.org/abs/1807.03748) with the chunks of the batch as negatives.

    Args:
        energies: (B, B + M). Row i is of context i, and its first B columns of the chunks of the
            batch, of which chunk i is its own. M more chunks are negatives of row i; those that
            are not there have an energy of infinity.
        tau: Temperature.
        both: Whether chunks choose among the contexts too; the loss is then the mean of the two.

    Warns:
        UserWarning: There is a single chunk, and so nothing to learn.

    Raises:
        ValueError: There are fewer columns than rows.
    """
    rows, columns = energies.shape
    if columns < rows:
        raise ValueError(f"energies {tuple(energies.shape)}, expected a column for each row")
    if columns == 1:
        warnings.warn(
            "a batch of one frame has no other chunks to be told from, and teaches nothing; "
            "expected at least 2",
            stacklevel=2,
        )
    own = torch.arange(rows, device=energies.device)
    contrast = _contrast(energies, own, tau)
    if both:
        back = _contrast(energies[:, :rows].T, own, tau)
        contrast = Contrast((contrast.loss + back.loss) / 2, contrast.correct)
    return contrast


def explicit_infonce(positive: Tensor, negatives: Tensor, tau: float = TAU) -> Contrast:
    """InfoNCE with negatives that were made for each row.

    Args:
        positive: (B,) energies of the expert chunks.
        negatives: (B, M) of others in the same contexts; infinity for those that are not there.
            A row that has none has a loss of 0.
        tau: Temperature.
    """
    energies = torch.cat([positive[:, None], negatives], dim=1)
    first = torch.zeros(len(positive), dtype=torch.long, device=positive.device)
    return _contrast(energies, first, tau)


def hinge(positive: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """By how much negatives are not a margin above the expert chunk, relu(E+ - E- + margin).

    Args:
        positive: (B,) energies of the expert chunks.
        negatives: (B, M) of others in the same contexts; infinity for those that are not there.
        margin: How far above they are to be.

    Returns:
        (B,) mean over a row's negatives, 0 where it has none.
    """
    there = negatives.isfinite()
    short = functional.relu(positive[:, None] - negatives + margin)
    return short.sum(dim=1) / there.sum(dim=1).clamp(min=1)


def _contrast(energies: Tensor, own: Tensor, tau: float) -> Contrast:
    """Of rows of energies with the place of the expert chunk in each."""
    loss = functional.cross_entropy(-energies / tau, own, reduction="none")
    mine = energies.gather(1, own[:, None])
    others = energies.scatter(1, own[:, None], torch.inf)
    return Contrast(loss, (mine < others).all(dim=1))
