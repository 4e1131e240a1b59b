# SPDX-License-Identifier: Apache-2.0
"""LeRobot's own pi0.5 in a size of ours, with our weights."""

from typing import Any

import pytest
import torch
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from torch import Tensor
from transformers.initialization import no_init_weights

from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_batch import Tokens, Views
from vla_nodes.models.pi05_config import Pi05Config

UNUSED = {
    "paligemma_with_expert.paligemma.lm_head.weight",
    "paligemma_with_expert.gemma_expert.lm_head.weight",
}
"""What LeRobot's module has and its action path never reads: a language head that is tied to
the token embedding in published weights, and one that the expert has for nothing."""


def lerobot_twin(model: Pi05, dtype: str = "float32") -> modeling_pi05.PI05Pytorch:
    """LeRobot's module; it fixes 8 heads.

    Only the sizes that it asks transformers for are changed, and only before it is built.
    """
    config = model.config
    sizes = {"gemma_2b": config.language, "gemma_300m": config.expert}
    paligemma = modeling_pi05.PaliGemmaForConditionalGenerationWithPiGemma
    expert = modeling_pi05.PiGemmaForCausalLM

    def gemma_config(variant: str) -> modeling_pi05.GemmaConfig:
        size = sizes[variant]
        return modeling_pi05.GemmaConfig(
            size.width, size.depth, size.mlp, size.heads, size.kv_heads, size.head_dim
        )

    def smaller_paligemma(config: Any) -> torch.nn.Module:
        _shrink(config, model.config)
        return paligemma(config=config)

    def smaller_expert(config: Any) -> torch.nn.Module:
        config.vocab_size = model.config.vocabulary
        return expert(config=config)

    with pytest.MonkeyPatch.context() as patch, no_init_weights():
        patch.setattr(modeling_pi05, "get_gemma_config", gemma_config)
        patch.setattr(
            modeling_pi05, "PaliGemmaForConditionalGenerationWithPiGemma", smaller_paligemma
        )
        patch.setattr(modeling_pi05, "PiGemmaForCausalLM", smaller_expert)
        twin = modeling_pi05.PI05Pytorch(
            PI05Config(
                device="cpu",
                dtype=dtype,
                chunk_size=config.chunk,
                n_action_steps=config.chunk,
                max_state_dim=config.max_state_dim,
                max_action_dim=config.max_action_dim,
                num_inference_steps=config.steps,
                image_resolution=(config.image_size, config.image_size),
            )
        ).eval()
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert set(missing) <= UNUSED
    assert not unexpected
    return twin


def lerobot_inputs(
    views: Views, prompt: Tokens
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Pictures, their masks, tokens and theirs, in the order that its methods take."""
    return list(views.pixels.unbind(1)), list(views.mask.unbind(1)), prompt.ids, prompt.mask


def _shrink(theirs: Any, ours: Pi05Config) -> None:
    theirs.text_config.vocab_size = ours.vocabulary
    theirs.image_token_index = ours.vocabulary - 1
    vision, projected = theirs.vision_config, ours.language.width
    vision.hidden_size, vision.intermediate_size = ours.vision.width, ours.vision.mlp
    vision.num_hidden_layers, vision.num_attention_heads = ours.vision.depth, ours.vision.heads
    vision.patch_size, vision.projection_dim = ours.vision.patch, projected
