# SPDX-License-Identifier: Apache-2.0
"""Real-time chunking by guidance: new chunks are drawn towards the unexecuted end of the old one.

https://arxiv.org/abs/2506.07339; there time runs from 0, noise, to 1. The form for models that
were not trained to take decided actions as given.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def agreement_weights(delay: int, overlap: int, count: int) -> Tensor:
    """How far each action of a new chunk must agree with the old one.

    Args:
        delay: Actions that will have been executed when the chunk takes over: 1.
        overlap: Actions of the old chunk; beyond: 0.
        count: Of the chunk.

    Returns:
        (count,) float32; it falls exponentially between the two.
    """
    place = torch.arange(count, dtype=torch.float32)
    share = ((overlap - place) / (overlap - delay + 1)).clamp(0.0, 1.0)
    weights = share * torch.expm1(share) / torch.expm1(torch.tensor(1.0))
    return torch.where(place < delay, 1.0, weights)


def guided_velocity(
    velocity: Callable[[Tensor], Tensor],
    noisy: Tensor,
    time: float,
    old: Tensor,
    weights: Tensor,
    limit: float,
) -> Tensor:
    """Corrects a velocity so that the chunk it leads to agrees with the old one.

    Args:
        velocity: (K, T, A) to the same.
        noisy: (K, T, A).
        time: From 1, noise, to 0.
        old: (T, A).
        weights: (T,).
        limit: Of the strength.

    Returns:
        (K, T, A).
    """
    with torch.enable_grad():
        noisy = noisy.detach().requires_grad_()
        speed = velocity(noisy)
        clean = noisy - time * speed
        error = weights[:, None] * (old - clean.detach())
        (correction,) = torch.autograd.grad(clean, noisy, error)
    return speed.detach() - strength(time, limit) * correction


def strength(time: float, limit: float) -> float:
    """Of the guidance: it grows towards the noise, up to a limit."""
    done = 1.0 - time
    if done == 0.0 or time == 0.0:
        return limit
    return min(limit, (done**2 + time**2) / (done * time))
