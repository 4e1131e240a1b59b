# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (https://arxiv.org/abs/2106.09685), by peft."""

import re
from collections.abc import Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn


def adapt(
    model: nn.Module, stacks: Sequence[str], rank: int, alpha: int, dropout: float = 0.0
) -> None:
    """Freezes stacks of layers, and gives the q, k, v and o of each layer an adapter.

    Args:
        model: Changed in place.
        stacks: Names of the Gemmas in the names of its parameters.
        rank: Of the adapters.
        alpha: Their scale is alpha over rank.
        dropout: Of what goes into them.
    """
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    names = "|".join(map(re.escape, stacks))
    modules = rf"(.*\.)?({names})\.layers\.\d+\.self_attn\.[qkvo]_proj"
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules)
    inject_adapter_in_model(config, model)
    # peft freezes all the rest of the model, too.
    for name, parameter in model.named_parameters():
        if name in trained:
            adapted = any(f".{stack}." in f".{name}" for stack in stacks)
            parameter.requires_grad = trained[name] and not adapted


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model whose adapters were added to what they adapt, under plain names."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            base = weights.pop(f"{name}.base_layer.weight")
            weights[f"{name}.weight"] = base + module.get_delta_weight("default").to(base.dtype)
    return weights
