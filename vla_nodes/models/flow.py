# SPDX-License-Identifier: Apache-2.0
"""Flow matching: time runs from 1, noise, to 0, the action (https://arxiv.org/abs/2410.24164)."""

import math

import torch
from torch import Tensor

TIME_ALPHA, TIME_BETA = 1.5, 1.0
TIME_SCALE, TIME_OFFSET = 0.999, 0.001


def sample_times(count: int, device: torch.device | str = "cpu") -> Tensor:
    """(count,) float32 flow times for training, Beta(1.5, 1)·0.999 + 0.001: more of the noisy."""
    beta = torch.distributions.Beta(torch.tensor(TIME_ALPHA), torch.tensor(TIME_BETA))
    return (beta.sample((count,)) * TIME_SCALE + TIME_OFFSET).to(device)


def embed_times(times: Tensor, width: int, min_period: float, max_period: float) -> Tensor:
    """Sines and cosines of flow times, with periods spaced evenly in their logarithm.

    Args:
        times: (...).
        width: Even.
        min_period: In units of time.
        max_period: Likewise.

    Returns:
        (..., width) float32, computed in float64.
    """
    share = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=times.device)
    period = min_period * (max_period / min_period) ** share
    angles = times.double()[..., None] * (2.0 * math.pi / period)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def mean_where(values: Tensor, wanted: Tensor) -> Tensor:
    """Mean of the values that are wanted; 0 where none is. ``wanted`` is expanded to fit."""
    wanted = wanted.expand_as(values)
    return torch.where(wanted, values, 0.0).sum() / wanted.sum().clamp(min=1)
