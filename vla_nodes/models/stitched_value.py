# SPDX-License-Identifier: Apache-2.0
"""A value function that is a small vision-language model with a second head for values.

It reads pictures and text in one causal sequence, and keeps its language head, so that it can
be aligned on, and trained along with, questions about pictures.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_nodes.models.c51 import ATOMS
from vla_nodes.models.value_config import ValueConfig
from vla_nodes.models.value_parts import Ages, make_language, make_vision, run_language


class StitchedValue(nn.Module):
    """Meets ``value_model.ValueModel``.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ValueConfig) -> None:
        super().__init__()
        self.config = config
        width, vision = config.language.width, config.vision.width
        self.vision = make_vision(config)
        self.language = make_language(config)
        self.projector = nn.Sequential(
            nn.Linear(vision, vision), nn.GELU(), nn.Linear(vision, width)
        )
        self.ages = Ages(config.history, width) if config.history > 1 else None
        self.head = nn.Linear(width, ATOMS)

    def encode(self, pixels: Tensor) -> Tensor:
        """(M, 3, S, S) to (M, P, W_vision); see ``ValueModel``."""
        return self.vision(pixel_values=pixels).last_hidden_state

    def forward(self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor) -> Tensor:
        """(B, V, P, W_vision) and text to (B, 201), read at the last token; see ``ValueModel``."""
        hidden, valid = self.hidden(features, mask, ids, id_mask)
        places = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(valid, places, 0).amax(-1)
        read = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        with torch.autocast(read.device.type, enabled=False):
            return self.head(read.float())

    def language_logits(
        self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor
    ) -> Tensor:
        """Logits of the token after each, (B, L, vocabulary); arguments are those of ``hidden``."""
        hidden, _ = self.hidden(features, mask, ids, id_mask)
        return functional.linear(hidden, self.language.embed_tokens.weight)

    def hidden(
        self, features: Tensor, mask: Tensor, ids: Tensor, id_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Runs the language model on the text with the pictures in it.

        Args:
            features: (B, V, P, W_vision).
            mask: (B, V) bool.
            ids: (B, L); ``config.image_id`` stands for the tokens of the pictures, V·P of them
                in a row, or none in a text without pictures.
            id_mask: (B, L) bool.

        Returns:
            (B, L, W), and (B, L) bool, where there is a token.
        """
        tokens = self.projector(features.to(self.language.norm.weight.dtype))
        tokens = tokens if self.ages is None else self.ages(tokens)
        pictures, seen = tokens.flatten(1, 2), mask.repeat_interleave(features.shape[2], dim=1)
        here = ids == self.config.image_id
        text = self.language.embed_tokens(ids.masked_fill(here, 0)).to(pictures.dtype)
        # The n-th place for a picture's token takes the n-th token.
        nth = (here.long().cumsum(-1) - 1).clamp(0, pictures.shape[1] - 1)
        placed = pictures.gather(1, nth[..., None].expand(-1, -1, pictures.shape[-1]))
        embeds = torch.where(here[..., None], placed, text)
        valid = id_mask & (~here | seen.gather(1, nth))
        return run_language(self.language, embeds, valid, causal=True), valid
