# SPDX-License-Identifier: Apache-2.0
"""Small folders of SigLIP and Gemma 3, as transformers saves them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vla_training.tokens.fit_tokenizer import fit_tokenizer

WORDS = ("what colour is it", "how many are there", "red green blue yellow one two three")
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
# As published folders of Gemma 3 say it, some of it in the words of older releases.
GEMMA = {
    "_sliding_window_pattern": 6,
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "intermediate_size": 48,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 7,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 16,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 6,
    "torch_dtype": "float32",
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 400,
}


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """So that no norm is the identity, and no bias zero."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
    return model.eval()


def make_siglip(folder: Path) -> SiglipModel:
    """Both towers, as published folders have them."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    model = shaken(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)), 1)
    model.save_pretrained(folder)
    return model


def make_siglip_vision(folder: Path) -> SiglipVisionModel:
    """The picture tower alone."""
    model = shaken(SiglipVisionModel(SiglipVisionConfig(**VISION)), 2)
    model.save_pretrained(folder)
    return model


def make_gemma(folder: Path) -> Gemma3ForCausalLM:
    """With a tokenizer of which one token is beyond the embedding."""
    model = shaken(Gemma3ForCausalLM(Gemma3TextConfig.from_dict(GEMMA)), 3)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(GEMMA))
    fit_tokenizer(set(WORDS), set(), vocabulary=GEMMA["vocab_size"]).write(folder)
    edit(folder / "tokenizer.json", added_tokens=_with_soft_token)
    return model


def _with_soft_token(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Ids of added tokens go on where those of the model end, as the library counts.
    return [*tokens, {**tokens[0], "id": GEMMA["vocab_size"], "content": "<image_soft_token>"}]


def edit(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file: to a value, or by a function of the one before."""
    values = json.loads(file.read_text())
    for name, change in changes.items():
        values[name] = change(values.get(name)) if callable(change) else change
    file.write_text(json.dumps(values))
