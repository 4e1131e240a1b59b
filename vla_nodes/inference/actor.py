# SPDX-License-Identifier: Apache-2.0
"""Denoises chunks of actions: prompts with pictures once, then the expert in every step."""

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from vla_nodes.inference.expert import Expert, Modulations
from vla_nodes.inference.fused_layers import bias_of
from vla_nodes.inference.guidance import guided_velocity
from vla_nodes.inference.language import Language


@dataclass(frozen=True)
class Actor:
    """Draws actions; all that it does on the device follows from the shapes of its inputs.

    Attributes:
        language: Runs prefixes.
        expert: Gives velocities.
        modulations: Of the expert's norms, for ``steps``.
        steps: Of denoising.
        hidden: Whether the prefix's last hidden states are returned.
        real_time: How decided actions enter; see ``EngineOptions``.
        max_guidance: Limit of that guidance.
    """

    language: Language
    expert: Expert
    modulations: Modulations
    steps: int
    hidden: bool
    real_time: Literal["trained", "guided"]
    max_guidance: float

    def __call__(
        self,
        features: Tensor,
        ids: Tensor,
        lengths: Tensor,
        noise: Tensor,
        guidance: Tensor,
        *decided: Tensor,
        padded: bool,
    ) -> tuple[Tensor, ...]:
        """Denoises.

        Args:
            features: (F, W) of the pictures.
            ids: (B, L) the prompt; of two rows, the second is the one to be guided away from.
            lengths: (B,) of the prompts.
            noise: (K, T, A) float32.
            guidance: Scalar, where there are two prompts.
            decided: None, or actions (T, A) float32 and how far each is decided (T,).
            padded: Whether any prompt is shorter than L.

        Returns:
            Actions (K, T, A) float32, and with ``hidden`` the first prompt's (F + L, W).
        """
        candidates, count, _ = noise.shape
        cache, ends, bias, hidden = self._prefix(
            features, ids, lengths, candidates, count, padded=padded
        )
        rope = self.expert.rope(ends, count)
        given = None
        if decided and self.real_time == "trained":
            given = decided[1] > 0.0

        def velocity(x: Tensor, step: int) -> Tensor:
            modulations = self.modulations.at(step, given)
            if len(ids) == 1:
                return self.expert.velocity(x, modulations, rope, cache, bias)
            both = self.expert.velocity(torch.cat([x, x]), modulations, rope, cache, bias)
            wanted, unwanted = both.chunk(2)
            return unwanted + guidance * (wanted - unwanted)

        x = noise  # float32 throughout: the steps are small beside what bfloat16 resolves
        for step in range(self.steps):
            if given is not None:
                x = torch.where(given[:, None], decided[0], x)
            at_step = functools.partial(velocity, step=step)
            if decided and self.real_time == "guided":
                time = 1.0 - step / self.steps
                speed = guided_velocity(at_step, x, time, decided[0], decided[1], self.max_guidance)
            else:
                speed = at_step(x)
            x = x - speed / self.steps
        if given is not None:
            x = torch.where(given[:, None], decided[0], x)
        return (x,) if hidden is None else (x, hidden[0])

    def _prefix(
        self,
        features: Tensor,
        ids: Tensor,
        lengths: Tensor,
        candidates: int,
        count: int,
        *,
        padded: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Runs the language model, and leaves its keys and values where the expert adds its own.

        Candidates share the computation, but each has a copy of the keys and values. Attention
        in two parts, to one prefix and to a candidate's own actions, would spare the copies, but
        gains nothing: for 8 candidates at full width on a CPU core, 40 ms against 41 ms in
        bfloat16 and 46 ms against 43 ms in float32. As one sequence under a mask: 55 ms.

        Returns:
            The cache, (B·K,) where prefixes end, what ``attend`` takes, and last hidden states.
        """
        embeds = self.language.embed(ids)
        embeds = torch.cat([features.expand(len(ids), -1, -1), embeds], dim=1)
        total = embeds.shape[1]
        positions = torch.arange(total, device=ids.device).expand(len(ids), -1)
        ends = len(features) + lengths
        mask = (positions < ends[:, None])[:, None, None] if padded else None
        size = self.language.size
        # Never filled in advance, as all of it is written before it is read.
        cache = embeds.new_empty(
            size.depth, 2, len(ids), candidates, size.kv_heads, total + count, size.head_dim
        )

        def store(number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            cache[number, 0, ..., :total, :] = keys[:, None]
            cache[number, 1, ..., :total, :] = values[:, None]
            return keys, values

        hidden = self.language.run(embeds, positions, mask, store, hidden=self.hidden)
        if mask is not None:
            mask = functional.pad(mask, (0, count), value=True)
            mask = mask.repeat_interleave(candidates, dim=0)
        bias = bias_of(mask, embeds.dtype)
        return cache.flatten(2, 3), ends.repeat_interleave(candidates), bias, hidden
