# SPDX-License-Identifier: Apache-2.0
"""Small value functions in which every weight matters, their tokenizer, and random batches."""

from dataclasses import replace

import torch
from tokenizer_samples import paligemma_like
from torch import Tensor

from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import ValueInterface
from vla_nodes.models.value_config import ValueConfig, tiny
from vla_nodes.models.value_model import make_value_model
from vla_nodes.models.value_prompt import value_tokens

TASKS = ("stack the red cube on the blue one", "place it on the tray")


def make_config(arch: str, **changes: object) -> ValueConfig:
    """Of pictures of 2 x 2 tokens, and with room for a long text of bytes."""
    return replace(tiny(arch), **{"max_tokens": 64, **changes})


def make_value(config: ValueConfig, seed: int = 0) -> CrossAttentionValue | StitchedValue:
    """A model to compare with: no norm is the identity, and nothing is zero."""
    torch.manual_seed(seed)
    model = make_value_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
    return model.eval()


def make_value_tokenizer() -> Tokenizer:
    return Tokenizer(paligemma_like())


def make_interface() -> ValueInterface:
    labels = {"returns": "per_task", "coefficient": 1.0, "longest": {TASKS[0]: 120}}
    return ValueInterface(("wrist", "top"), 10.0, TASKS, 7, (0.8, 0.1, 0.1), labels)


def random_features(
    config: ValueConfig, rows: int = 2, cameras: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(B, V, P, W) and a mask in which all are there."""
    shape = (rows, config.views(cameras), config.image_tokens, config.vision.width)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return features, torch.ones(shape[:2], dtype=torch.bool)


def value_batch(
    config: ValueConfig, tasks: tuple[str, ...] = TASKS, cameras: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, mask, ids and their mask, as a model takes them."""
    prompts = value_tokens(make_value_tokenizer(), tasks, config, cameras)
    return (*random_features(config, len(tasks), cameras, seed), prompts.ids, prompts.mask)
