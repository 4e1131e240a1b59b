# SPDX-License-Identifier: Apache-2.0
"""A value function whose text attends to the pictures, then both run through Gemma 3."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.models.c51 import ATOMS
from vla_nodes.models.value_config import ValueConfig
from vla_nodes.models.value_parts import Ages, make_language, make_vision, run_language


class CrossAttention(nn.Module):
    """Text attends to pictures; the result is added to the text.

    Args:
        width: Of a token.
        heads: Of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, text: Tensor, pictures: Tensor, valid: Tensor) -> Tensor:
        """Fuses.

        Args:
            text: (B, L, W).
            pictures: (B, N, W).
            valid: (B, N) bool, True where a token may be attended to; at least one of a row.

        Returns:
            (B, L, W).
        """
        queries = self._split(self.q_proj(self.norm(text)))
        keys, values = (self._split(p(pictures)) for p in (self.k_proj, self.v_proj))
        found = functional.scaled_dot_product_attention(
            queries, keys, values, valid[:, None, None, :]
        )
        return text + self.o_proj(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, W) to (B, heads, N, W / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossAttentionValue(nn.Module):
    """Meets ``value_model.ValueModel``.

    The token embedding is frozen, so that a small dataset cannot spoil the meaning of words.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ValueConfig) -> None:
        super().__init__()
        self.config = config
        width = config.language.width
        self.vision = make_vision(config)
        self.language = make_language(config)
        self.language.embed_tokens.requires_grad_(False)
        self.projection = nn.Linear(config.vision.width, width)
        self.ages = Ages(config.history, width) if config.history > 1 else None
        self.cross_attention = CrossAttention(width, config.attention_heads)
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width // 2),
            nn.GELU(approximate="tanh"),
            nn.Linear(width // 2, ATOMS),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        """(M, 3, S, S) to (M, P, W_vision); see ``ValueModel``."""
        return self.vision(pixel_values=pixels).last_hidden_state

    def forward(self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor) -> Tensor:
        """(B, V, P, W_vision) and text to (B, 201); see ``ValueModel``."""
        tokens = self.projection(features.to(self.projection.weight.dtype))
        tokens = tokens if self.ages is None else self.ages(tokens)
        pictures, seen = tokens.flatten(1, 2), mask.repeat_interleave(features.shape[2], dim=1)
        text = self.language.embed_tokens(ids).to(pictures.dtype)
        text = self.cross_attention(text, pictures, seen)
        valid = torch.cat([seen, id_mask], dim=1)
        hidden = run_language(
            self.language, torch.cat([pictures, text], dim=1), valid, causal=False
        )
        weights = valid.unsqueeze(-1).float()
        pooled = (hidden.float() * weights).sum(1) / (weights.sum(1) + 1e-8)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head(pooled)
