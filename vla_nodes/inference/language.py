# SPDX-License-Identifier: Apache-2.0
"""Runs the language model for inference: over prefixes of pictures and prompt, and over texts."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.inference.fused_layers import (
    FusedLayer,
    Heads,
    attend,
    bias_of,
    fuse,
    keys_and_values,
    mlp,
    project,
    queries_of,
    rope_at,
)
from vla_nodes.models.gemma import normalise
from vla_nodes.models.pi05 import Pi05

Rope = tuple[Tensor, Tensor]
Store = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes a layer's number and its new keys and values; returns those to attend to."""


class Language:
    """The language model with merged weights.

    Args:
        model: Its weights are merged in place.
        compile_pieces: Compiles what lies between one attention and the next.
    """

    def __init__(self, model: Pi05, *, compile_pieces: bool = False) -> None:
        self.size = model.config.language
        self.heads = Heads.of(self.size)
        self.layers: Sequence[FusedLayer] = fuse(model.language)
        self.embedding = model.language.embed_tokens.weight.detach()
        self.scales = [
            (_scale(layer.input_layernorm), _scale(layer.post_attention_layernorm))
            for layer in model.language
        ]
        self.final_scale = _scale(model.language.norm)
        self._before, self._after = _before, _after
        if compile_pieces:
            self._before = torch.compile(_before)
            self._after = torch.compile(_after)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) to (B, L, W)."""
        return functional.embedding(ids, self.embedding) * self.size.width**0.5

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., W) to (..., vocabulary) float32."""
        return functional.linear(hidden, self.embedding).float()

    def run(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        store: Store,
        *,
        rows: Tensor | None = None,
        hidden: bool = True,
    ) -> Tensor | None:
        """Runs all layers.

        Args:
            x: (B, N, W) embeddings.
            positions: (B, N).
            mask: (B or 1, 1, N or 1, M) bool, True where a token sees another; None for
                everywhere.
            store: Keeps keys and values.
            rows: (R,) the tokens whose last hidden states are wanted; None for all.
            hidden: Whether any are. The last layer's attention and MLP serve nothing but its
                hidden states: without them only its keys and values are computed.

        Returns:
            (B, N or R, W), normed; None without ``hidden``.
        """
        rope, bias = rope_at(positions, self.size.head_dim, x.dtype), bias_of(mask, x.dtype)
        last = len(self.layers) - 1
        for number, (layer, (first, second)) in enumerate(
            zip(self.layers[:last], self.scales, strict=False)
        ):
            queries, keys, values = self._before(x, first, layer, self.heads, rope)
            keys, values = store(number, keys, values)
            x = self._after(x, attend(queries, keys, values, bias), second, layer)
        layer, (first, second) = self.layers[last], self.scales[last]
        normed = _norm(x, first)
        keys, values = store(last, *keys_and_values(normed, layer.qkv, self.heads, rope))
        if not hidden:
            return None
        if rows is not None:
            x, normed, rope = x[:, rows], normed[:, rows], (rope[0][:, rows], rope[1][:, rows])
        seen = attend(queries_of(normed, layer.qkv, self.heads, rope), keys, values, bias)
        return _norm(self._after(x, seen, second, layer), self.final_scale)


def _before(
    x: Tensor, scale: Tensor, layer: FusedLayer, heads: Heads, rope: Rope
) -> tuple[Tensor, Tensor, Tensor]:
    return project(_norm(x, scale), layer.qkv, heads, rope)


def _after(x: Tensor, seen: Tensor, scale: Tensor, layer: FusedLayer) -> Tensor:
    x = x + functional.linear(seen, layer.out)
    return x + mlp(_norm(x, scale), layer)


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    return (normalise(x) * scale).to(x.dtype)


def _scale(norm: nn.Module) -> Tensor:
    return 1.0 + norm.weight.detach().float()  # type: ignore[operator]
