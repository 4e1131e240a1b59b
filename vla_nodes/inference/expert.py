# SPDX-License-Identifier: Apache-2.0
"""Runs the action expert for inference: one velocity of noisy actions at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.inference.fused_layers import (
    FusedLayer,
    Heads,
    attend,
    fuse,
    mlp,
    project,
    rope_at,
)
from vla_nodes.models.flow import embed_times
from vla_nodes.models.gemma import normalise
from vla_nodes.models.pi05 import Pi05


class Modulation(NamedTuple):
    """What the adaptive norms do at a time; in a table, one further axis or two in front.

    Attributes:
        scale: (..., E) float32, one added.
        shift: (..., E) float32.
        gate: (..., E) in the weights' type.
    """

    scale: Tensor
    shift: Tensor
    gate: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Normalises (B, T, E)."""
        return (normalise(x) * self.scale + self.shift).to(x.dtype)


class Modulations:
    """The norms' modulation at every time that a chunk's denoising passes.

    It follows from the time alone, not from the actions, and the times are always the same. So
    it is computed once, in float32, and a call reads none of the norms' weights, a quarter of
    the expert's.

    Args:
        model: Before its weights are converted.
        steps: Of denoising.
        dtype: Of the gates.
        device: Of the table.
    """

    def __init__(self, model: Pi05, steps: int, dtype: torch.dtype, device: torch.device) -> None:
        times = [1.0 - step / steps for step in range(steps)] + [0.0]
        condition = _condition(model, torch.tensor(times))
        norms: list[nn.Module] = []
        for layer in model.expert:
            norms += [layer.input_layernorm, layer.post_attention_layernorm]
        norms.append(model.expert.norm)
        rows = torch.stack([_linear(norm.dense, condition) for norm in norms], dim=1)  # type: ignore[arg-type]
        scale, shift, gate = rows.to(device).chunk(3, dim=-1)
        self._table = Modulation((1.0 + scale).contiguous(), shift.contiguous(), gate.to(dtype))

    def at(self, step: int, given: Tensor | None = None) -> Sequence[Modulation]:
        """The modulation of each norm in a step, (E,), two a layer and the last.

        Args:
            step: Of denoising.
            given: (T,) bool, the actions that are clean, whose time is 0; the modulation is then
                (T, E).
        """
        rows = [part[step] for part in self._table]
        if given is not None:
            clean = [part[-1] for part in self._table]
            rows = [
                torch.where(given[:, None], there[:, None], row[:, None])
                for there, row in zip(clean, rows, strict=True)
            ]
        return [Modulation(*norm) for norm in zip(*rows, strict=True)]


class Expert:
    """The action expert with merged weights.

    Args:
        model: Its weights are merged in place.
        compile_pieces: Compiles what lies between one attention and the next.
    """

    def __init__(self, model: Pi05, *, compile_pieces: bool = False) -> None:
        self.size = model.config.expert
        self.heads = Heads.of(self.size)
        self.layers: Sequence[FusedLayer] = fuse(model.expert)
        self._in, self._out = model.action_in_proj, model.action_out_proj
        self._out_weight = self._out.weight.detach().float()
        self._out_bias = self._out.bias.detach().float()
        self._before, self._after = _before, _after
        if compile_pieces:
            self._before = torch.compile(_before)
            self._after = torch.compile(_after)

    def rope(self, prefix_lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of ``count`` actions behind prefixes of (R,) lengths."""
        positions = prefix_lengths[:, None] + torch.arange(count, device=prefix_lengths.device)
        return rope_at(positions, self.size.head_dim, self._in.weight.dtype)

    def velocity(
        self,
        noisy: Tensor,
        modulations: Sequence[Modulation],
        rope: tuple[Tensor, Tensor],
        cache: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Predicts the velocity of noisy actions.

        Args:
            noisy: (R, T, A) float32.
            modulations: Of the norms.
            rope: Of the actions.
            cache: (layers, 2, R, kv_heads, N + T, head_dim), the prefix's keys and values, and
                places for the actions' own, which are written.
            bias: (R, 1, 1, N + T), as ``attend`` takes it.

        Returns:
            (R, T, A) float32.
        """
        count = noisy.shape[1]
        x = functional.linear(noisy.to(self._in.weight.dtype), self._in.weight, self._in.bias)
        for number, layer in enumerate(self.layers):
            first, second = modulations[2 * number : 2 * number + 2]
            queries, own_keys, own_values = self._before(x, first, layer, self.heads, rope)
            keys, values = cache[number]
            if torch.is_grad_enabled():  # what is written over cannot be differentiated
                keys = torch.cat([keys[:, :, :-count], own_keys], dim=2)
                values = torch.cat([values[:, :, :-count], own_values], dim=2)
            else:
                keys[:, :, -count:] = own_keys
                values[:, :, -count:] = own_values
            seen = attend(queries, keys, values, bias)
            x = self._after(x, seen, first.gate, second, layer)
        hidden = modulations[-1](x)
        return functional.linear(hidden.float(), self._out_weight, self._out_bias)


def _before(
    x: Tensor,
    modulation: Modulation,
    layer: FusedLayer,
    heads: Heads,
    rope: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    return project(modulation(x), layer.qkv, heads, rope)


def _after(
    x: Tensor, seen: Tensor, gate: Tensor, modulation: Modulation, layer: FusedLayer
) -> Tensor:
    x = x + gate * functional.linear(seen, layer.out)
    return x + modulation.gate * mlp(modulation(x), layer)


def _condition(model: Pi05, times: Tensor) -> Tensor:
    """(S,) times to (S, E), in float32 whatever the weights' type."""
    config = model.config
    embedded = embed_times(times, config.expert.width, config.min_period, config.max_period)
    embedded = embedded.to(model.time_mlp_in.weight.device)
    embedded = functional.silu(_linear(model.time_mlp_in, embedded))
    return functional.silu(_linear(model.time_mlp_out, embedded))


def _linear(linear: nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, linear.weight.detach().float(), linear.bias.detach().float())
