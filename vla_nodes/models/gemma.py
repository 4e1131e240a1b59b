# SPDX-License-Identifier: Apache-2.0
"""Gemma layers, plain and with adaptive norms, under the parameter names of transformers.

They are written here, not taken from transformers, because pi0.5 runs two of these stacks side
by side, one attending to the other's keys and values. Gemma: https://arxiv.org/abs/2403.08295;
adaptive norms as in DiT, https://arxiv.org/abs/2212.09748.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.models.pi05_config import GemmaSize

EPSILON = 1e-6
ROPE_BASE = 10_000.0


class RmsNorm(nn.Module):
    """Root mean square norm with the scale 1 + weight, in float32 inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return (normalise(x) * (1.0 + self.weight.float())).to(x.dtype)


class AdaptiveRmsNorm(nn.Module):
    """Root mean square norm whose scale, shift and gate follow from a condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Normalises.

        Args:
            x: (B, T, width).
            condition: (B, 1, width) or (B, T, width).

        Returns:
            The normalised x, and the gate for what is computed from it, which has the shape of
            the condition.
        """
        scale, shift, gate = self.dense(condition).chunk(3, dim=-1)
        normed = normalise(x) * (1.0 + scale.float()) + shift.float()
        return normed.to(x.dtype), gate.to(x.dtype)


def normalise(x: Tensor) -> Tensor:
    """Divides x by its root mean square, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


class Attention(nn.Module):
    """Projections of attention; what attends to what is the caller's."""

    def __init__(self, size: GemmaSize) -> None:
        super().__init__()
        self.head_dim = size.head_dim
        self.q_proj = nn.Linear(size.width, size.heads * size.head_dim, bias=False)
        self.k_proj = nn.Linear(size.width, size.kv_heads * size.head_dim, bias=False)
        self.v_proj = nn.Linear(size.width, size.kv_heads * size.head_dim, bias=False)
        self.o_proj = nn.Linear(size.heads * size.head_dim, size.width, bias=False)

    def queries(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """(B, N, width) to (B, heads, N, head_dim), rotated."""
        return rotate(self._heads(self.q_proj(x)), rope)

    def keys_and_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, N, width) to (B, kv_heads, N, head_dim) twice; keys are rotated."""
        return rotate(self._heads(self.k_proj(x)), rope), self._heads(self.v_proj(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attends and projects.

        Args:
            queries: (B, heads, N, head_dim).
            keys: (B, kv_heads, M, head_dim).
            values: Likewise.
            mask: (B, N, M) bool, True where a query sees a key; None for everywhere.

        Returns:
            (B, N, width).
        """
        seen = functional.scaled_dot_product_attention(
            queries, keys, values, None if mask is None else mask[:, None], enable_gqa=True
        )
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Gated MLP with GELU (tanh)."""

    def __init__(self, size: GemmaSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.width, size.mlp, bias=False)
        self.up_proj = nn.Linear(size.width, size.mlp, bias=False)
        self.down_proj = nn.Linear(size.mlp, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        gate = functional.gelu(self.gate_proj(x), approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))


class Layer(nn.Module):
    """One layer; ``adaptive`` for the action expert's."""

    def __init__(self, size: GemmaSize, *, adaptive: bool) -> None:
        super().__init__()
        norm = AdaptiveRmsNorm if adaptive else RmsNorm
        self.self_attn = Attention(size)
        self.mlp = Mlp(size)
        self.input_layernorm = norm(size.width)
        self.post_attention_layernorm = norm(size.width)


class Gemma(nn.Module):
    """Layers and the last norm; with token embeddings where a vocabulary is given."""

    def __init__(self, size: GemmaSize, *, adaptive: bool, vocabulary: int = 0) -> None:
        super().__init__()
        norm = AdaptiveRmsNorm if adaptive else RmsNorm
        if vocabulary:
            self.embed_tokens = nn.Embedding(vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size, adaptive=adaptive) for _ in range(size.depth))
        self.norm = norm(size.width)

    def __iter__(self) -> Iterator[Layer]:
        """The layers, in order."""
        return iter(self.layers)  # type: ignore[arg-type]


def rope_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding (https://arxiv.org/abs/2104.09864).

    Args:
        positions: (B, N), of any integer type.
        head_dim: Even.
        dtype: Of what is returned; the angles are float32.

    Returns:
        Two of (B, 1, N, head_dim).
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions.float()[:, None, :, None] / ROPE_BASE**exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates (B, heads, N, head_dim) by its positions; the halves of a head are the pairs."""
    cosines, sines = rope
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
