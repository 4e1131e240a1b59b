# SPDX-License-Identifier: Apache-2.0
"""Chunks that a policy draws for recorded frames, with all its layers or with fewer.

A chunk of fewer layers comes from the expert's hidden states behind an earlier layer, put
through its last norm and projection in every step of denoising. Such chunks are plausible and
wrong, and the fewer the layers the more so.
"""

import torch
from torch import Tensor

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_network import KeysAndValues


def draw_samples(model: Pi05, prefix: KeysAndValues, there: Tensor, noise: Tensor) -> Tensor:
    """Chunks of the whole policy.

    Args:
        model: The policy.
        prefix: Keys and values of the actor's prefix.
        there: (B, N) bool, the prefix's tokens that are there.
        noise: (M, B, T, A).

    Returns:
        (B, M, T, A) float32, normalised and padded.
    """
    return torch.stack([model.denoise(prefix, there, one) for one in noise], dim=1)


def draw_layers(model: Pi05, prefix: KeysAndValues, there: Tensor, noise: Tensor) -> Tensor:
    """Chunks of the first layers of the expert: one, two, and so on to all but one, L.

    Args:
        model: The policy.
        prefix: Keys and values of the actor's prefix.
        there: (B, N) bool, the prefix's tokens that are there.
        noise: (B, T, A), the same for each of them.

    Returns:
        (B, L, T, A) float32, normalised and padded.
    """
    depths = range(1, model.config.expert.depth)
    chunks = [model.denoise(prefix, there, noise, depth=depth) for depth in depths]
    return torch.stack(chunks, dim=1)
