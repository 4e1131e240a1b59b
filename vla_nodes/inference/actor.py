# SPDX-License-Identifier: Apache-2.0
"""Denoises chunks of actions: prompts with pictures once, then the expert in every step.

With an energy model the chunks are also judged, in the same call: on the hidden states that the
first prompt has left, all of them at once.
"""

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
from vla_nodes.models.energy import EnergyContext, EnergyModel


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
        energy: Judges chunks; None for none.
    """

    language: Language
    expert: Expert
    modulations: Modulations
    steps: int
    hidden: bool
    real_time: Literal["trained", "guided"]
    max_guidance: float
    energy: EnergyModel | None

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
            Actions (K, T, A) float32. With an energy model their energies (K,), and what
            ``again`` and ``energies`` take: the context, the prefixes' keys and values, and
            where they end. With ``hidden`` the first prompt's hidden states (F + L, W).
        """
        cache, ends, hidden = self._prefix(features, ids, lengths, padded=padded)
        actions = self._denoise(cache, ends, noise, guidance, *decided, padded=padded)
        outputs = [actions]
        if self.energy is not None:
            context = self._context(hidden, ends, padded=padded)
            outputs += [self.energies(context, ends, actions, padded=padded), context, cache, ends]
        return (*outputs, hidden[0]) if self.hidden else tuple(outputs)

    def again(
        self,
        context: Tensor,
        cache: Tensor,
        ends: Tensor,
        noise: Tensor,
        guidance: Tensor,
        *decided: Tensor,
        padded: bool,
    ) -> tuple[Tensor, Tensor]:
        """Denoises other noise over a prefix that was run before.

        Args:
            context: As ``__call__`` returned it, like the next two.
            cache: Likewise.
            ends: Likewise.
            noise: (K, T, A) float32.
            guidance: As for ``__call__``, like the rest.
            decided: Likewise.
            padded: Likewise.

        Returns:
            Actions (K, T, A) float32, and their energies (K,).
        """
        actions = self._denoise(cache, ends, noise, guidance, *decided, padded=padded)
        return actions, self.energies(context, ends, actions, padded=padded)

    def judge(
        self, features: Tensor, ids: Tensor, lengths: Tensor, actions: Tensor, *, padded: bool
    ) -> tuple[Tensor]:
        """Energies (K,) of given chunks (K, T, A); other arguments as of ``__call__``."""
        _, ends, hidden = self._prefix(features, ids, lengths, padded=padded)
        context = self._context(hidden, ends, padded=padded)
        return (self.energies(context, ends, actions, padded=padded),)

    def energies(self, context: Tensor, ends: Tensor, actions: Tensor, *, padded: bool) -> Tensor:
        """Energies of chunks in a context.

        Args:
            context: (1, N, H), encoded by the energy model.
            ends: (B,) where prefixes end, the first being the context's.
            actions: (K, T, A), A at least as many as the energy model takes.
            padded: Whether the context may be longer than that.

        Returns:
            (K,) float32.
        """
        energy = self._energy
        # In the global form the context is a mean, of which padding was left out.
        seen = _seen(context.shape[1], ends[:1], padded and energy.config.form == "tokens")
        encoded = EnergyContext(context, None if seen is None else ~seen)
        return energy.energies(encoded, actions[None, ..., : self.action_dim])[0]

    def _context(self, hidden: Tensor, ends: Tensor, *, padded: bool) -> Tensor:
        seen = _seen(hidden.shape[1], ends[:1], padded)
        return self._energy.context(hidden[:1], None if seen is None else ~seen).features

    @property
    def action_dim(self) -> int:
        """Elements of an action that the energy model takes.

        Raises:
            ValueError: There is none.
        """
        return self._energy.config.action_dim

    @property
    def _energy(self) -> EnergyModel:
        if self.energy is None:
            raise ValueError("there is no energy model to judge by")
        return self.energy

    def _denoise(
        self,
        cache: Tensor,
        ends: Tensor,
        noise: Tensor,
        guidance: Tensor,
        *decided: Tensor,
        padded: bool,
    ) -> Tensor:
        """Runs all steps.

        Candidates share the prefix's computation, but each has a copy of the keys and values.
        Attention in two parts, to one prefix and to a candidate's own actions, would spare the
        copies, but gains nothing: for 8 candidates at full width on a CPU core, 40 ms against
        41 ms in bfloat16 and 46 ms against 43 ms in float32. As one sequence under a mask: 55 ms.
        """
        candidates, count, _ = noise.shape
        layers, two, prompts, heads, total, width = cache.shape
        # Never filled in advance, as all of it is written before it is read.
        room = cache.new_empty(layers, two, prompts, candidates, heads, total + count, width)
        room[..., :total, :] = cache[:, :, :, None]
        room = room.flatten(2, 3)
        rope = self.expert.rope(ends.repeat_interleave(candidates), count)
        seen = _seen(total, ends, padded)
        if seen is not None:
            seen = functional.pad(seen, (0, count), value=True)
            seen = seen[:, None, None].repeat_interleave(candidates, dim=0)
        bias = bias_of(seen, cache.dtype)
        given = decided[1] > 0.0 if decided and self.real_time == "trained" else None

        def velocity(x: Tensor, step: int) -> Tensor:
            modulations = self.modulations.at(step, given)
            if prompts == 1:
                return self.expert.velocity(x, modulations, rope, room, bias)
            both = self.expert.velocity(torch.cat([x, x]), modulations, rope, room, bias)
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
        return x if given is None else torch.where(given[:, None], decided[0], x)

    def _prefix(
        self, features: Tensor, ids: Tensor, lengths: Tensor, *, padded: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs the language model.

        Returns:
            Keys and values (layers, 2, B, kv_heads, N, head_dim), (B,) where prefixes end, and
            last hidden states (B, N, W), which are empty where nobody looks at them.
        """
        embeds = self.language.embed(ids)
        embeds = torch.cat([features.expand(len(ids), -1, -1), embeds], dim=1)
        total = embeds.shape[1]
        positions = torch.arange(total, device=ids.device).expand(len(ids), -1)
        ends = len(features) + lengths
        seen = _seen(total, ends, padded)
        mask = None if seen is None else seen[:, None, None]
        size = self.language.size
        cache = embeds.new_empty(size.depth, 2, len(ids), size.kv_heads, total, size.head_dim)

        def store(number: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            cache[number, 0], cache[number, 1] = keys, values
            return keys, values

        looked_at = self.hidden or self.energy is not None
        hidden = self.language.run(embeds, positions, mask, store, hidden=looked_at)
        return cache, ends, embeds[:, :0] if hidden is None else hidden


def _seen(total: int, ends: Tensor, padded: bool) -> Tensor | None:
    """(B, total) bool, the tokens that are no padding; None where all are."""
    return torch.arange(total, device=ends.device) < ends[:, None] if padded else None
