# SPDX-License-Identifier: Apache-2.0
"""What a pi0.5 learns from: cross entropy of the planner's words, flow matching of actions.

Flow matching: https://arxiv.org/abs/2410.24164.
"""

import torch
from torch import Tensor
from torch.nn import functional

from vla_nodes.models.flow import sample_times
from vla_nodes.models.padding import at_last_token
from vla_nodes.models.pi05_batch import ActionTarget, Tokens, Views
from vla_nodes.models.pi05_network import KeysAndValues, Pi05Network


def text_loss(
    network: Pi05Network, views: Views, pictures: Tensor, prompt: Tokens, target: Tokens
) -> tuple[Tensor, Tensor]:
    """Cross entropy of what the planner is to write.

    Args:
        network: Its language model learns.
        views: Of B observations; which cameras are there.
        pictures: (B, V·P, W), embedded.
        prompt: (B, L).
        target: (B, S), end token included.

    Returns:
        (B, S) float32, 0 where padded, and the last hidden states (B, V·P + L, W) of pictures and
        prompt.
    """
    hidden, there, _ = network.prefix(views, pictures, prompt, target)
    start = hidden.shape[1] - target.ids.shape[1]
    logits = network.logits(at_last_token(hidden, there, start - 1)[:, :-1])
    loss = functional.cross_entropy(logits.float().mT, target.ids, reduction="none")
    return torch.where(target.mask, loss, 0.0), hidden[:, :start]


def action_loss(
    network: Pi05Network,
    target: ActionTarget,
    prefix: KeysAndValues,
    there: Tensor,
    samples: int,
    noise: Tensor | None,
    times: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of the expert's velocity.

    Args:
        network: Its expert learns, and its language model where ``prefix`` has a gradient.
        target: B chunks.
        prefix: Keys and values of the actor's prefix.
        there: (B, N) bool, the prefix's tokens that are there.
        samples: Noises and times for each chunk, F.
        noise: (F·B, T, A); drawn where None.
        times: (F·B,) flow times; drawn where None.

    Returns:
        Errors (F·B, T, A) float32, sample by sample, 0 where they do not count; which of them do,
        likewise; and the expert's last hidden states (F·B, T, E).
    """
    actions, is_pad = _repeat(target.actions, samples), _repeat(target.is_pad, samples)
    delay = None if target.delay is None else _repeat(target.delay, samples)
    prefix = [(_repeat(keys, samples), _repeat(values, samples)) for keys, values in prefix]
    count = actions.shape[1]
    noise = torch.randn_like(actions) if noise is None else noise
    times = sample_times(len(actions), actions.device) if times is None else times
    times = times[:, None].expand(-1, count)
    learnt = ~is_pad
    if delay is not None:
        given = torch.arange(count, device=actions.device) < delay[:, None]
        times, learnt = torch.where(given, 0.0, times), learnt & ~given
    noisy = times[..., None] * noise + (1.0 - times[..., None]) * actions
    velocity, hidden = network.run_expert(noisy, times, prefix, _repeat(there, samples))
    real = torch.arange(actions.shape[2], device=actions.device) < target.dims
    counted = learnt[..., None] & real
    return torch.where(counted, (noise - actions - velocity).square(), 0.0), counted, hidden


def _repeat(x: Tensor, count: int) -> Tensor:
    """The batch ``count`` times, one behind the other."""
    return x if count == 1 else x.repeat(count, *[1] * (x.ndim - 1))
