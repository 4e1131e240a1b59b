# SPDX-License-Identifier: Apache-2.0
"""What both value functions are made of: SigLIP, and Gemma 3 on continuous embeddings.

SigLIP: https://arxiv.org/abs/2303.15343; Gemma 3: https://arxiv.org/abs/2503.19786.
"""

import torch
from torch import Tensor, nn
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vla_nodes.models.value_config import ValueConfig


def make_vision(config: ValueConfig) -> SiglipVisionModel:
    """SigLIP without its pooling, with new weights."""
    size = config.vision
    return SiglipVisionModel(
        SiglipVisionConfig(  # type: ignore[call-arg]
            hidden_size=size.width,
            intermediate_size=size.mlp,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            image_size=config.image_size,
            patch_size=size.patch,
            vision_use_head=False,
        )
    )


def make_language(config: ValueConfig) -> Gemma3TextModel:
    """Gemma 3, with new weights of unit variance."""
    size = config.language
    every = min(6, size.depth)  # a small one has a global layer, too
    model = Gemma3TextModel(
        Gemma3TextConfig(  # type: ignore[call-arg]
            vocab_size=config.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.mlp,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            head_dim=size.head_dim,
            query_pre_attn_scalar=size.head_dim,
            layer_types=[
                "sliding_attention" if place % every else "full_attention"
                for place in range(1, size.depth + 1)
            ],
            sliding_window=config.window,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            max_position_embeddings=32768,
            use_cache=False,
            pad_token_id=None,  # else the first token would never train, whatever it is
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    return model


def run_language(
    language: Gemma3TextModel, embeds: Tensor, valid: Tensor, *, causal: bool
) -> Tensor:
    """Runs Gemma 3 on embeddings, as if those that are not valid were not there.

    Args:
        language: The model.
        embeds: (B, N, W).
        valid: (B, N) bool; at least one of a row, and where it is causal the first.
        causal: Whether a place sees only itself and those before it.

    Returns:
        (B, N, W), after the last norm; what stands at places that are not valid means nothing.
    """
    # Places are counted over what is there: an absent camera must not move what follows it.
    places = (valid.long().cumsum(-1) - 1).clamp(min=0)
    seen = valid[:, None, :].expand(-1, valid.shape[1], -1)
    if causal:
        seen = seen & torch.ones_like(seen[0]).tril()
    window = language.config.sliding_window
    assert window is not None  # make_language sets it
    near = seen
    if valid.shape[1] > window:
        near = seen & ((places[:, :, None] - places[:, None, :]).abs() < window)
    masks = {"full_attention": seen[:, None], "sliding_attention": near[:, None]}
    return language(
        inputs_embeds=embeds,
        attention_mask=masks,
        position_ids=places,
        use_cache=False,
    ).last_hidden_state


class Ages(nn.Module):
    """A learnt embedding of how old a picture is, added to its tokens.

    Without it the frames of one camera could not be told apart where they are attended to.

    Args:
        history: Frames of each camera.
        width: Of a token.
    """

    def __init__(self, history: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(history, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, V, P, W) to the same; views are camera by camera, the oldest frame first.

        Raises:
            ValueError: A camera has too few frames, or too many.
        """
        history = self.embedding.num_embeddings
        if tokens.shape[1] % history:
            raise ValueError(f"{tokens.shape[1]} views, expected {history} of each camera")
        ages = torch.arange(tokens.shape[1], device=tokens.device) % history
        return tokens + self.embedding(ages)[:, None]
