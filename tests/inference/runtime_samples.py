# SPDX-License-Identifier: Apache-2.0
"""Small value functions, pictures for them, and what their models say by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers

from vla_nodes.models.pictures import fit_pictures
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import (
    ValueInterface,
    load_value_model,
    read_value_checkpoint,
    write_value_checkpoint,
)
from vla_nodes.models.value_config import Arch, tiny
from vla_nodes.models.value_model import make_value_model
from vla_nodes.models.value_prompt import value_tokens

CAMERAS = ("front", "wrist")
TEXTS = ("put the red cube in the tray", "grasp it")


def write_value(folder: Path, arch: Arch, history: int = 1, seed: int = 0) -> Path:
    """A tiny value function with random weights, its head scaled so that values differ."""
    alphabet = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(alphabet[:3])
    config = replace(tiny(arch), history=history)
    torch.manual_seed(seed)
    model = make_value_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that no norm is the identity
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5 * (4.0 if name.startswith("head.") else 1.0))
    interface = ValueInterface(CAMERAS, 10.0, TEXTS, 0, (0.8, 0.1, 0.1), {"mode": "per_task"})
    write_value_checkpoint(folder, model, config, interface, Tokenizer(tokenizer))
    return folder


def pictures(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Of different sizes."""
    generator = np.random.default_rng(seed)
    sizes = ((48, 64), (32, 32), (40, 24), (100, 30))
    return [generator.integers(0, 256, (*sizes[i % 4], 3), np.uint8) for i in range(count)]


@torch.no_grad()
def by_hand(
    folder: Path, views: Sequence[NDArray[np.uint8] | None], texts: Sequence[str]
) -> NDArray[np.float32]:
    """Probabilities (N, 201) of the model itself, on all of its cameras, text by text.

    Args:
        folder: Of the checkpoint.
        views: Pictures, camera by camera; None where absent.
        texts: N.
    """
    checkpoint = read_value_checkpoint(folder)
    model, config = load_value_model(checkpoint), checkpoint.config
    black = np.zeros((8, 8, 3), np.uint8)
    pixels = [
        fit_pictures(torch.tensor(black if one is None else one).permute(2, 0, 1)[None], 32)
        for one in views
    ]
    features = torch.stack([model.encode(one)[0] for one in pixels])[None]
    mask = torch.tensor([[one is not None for one in views]])
    rows = []
    for text in texts:
        tokens = value_tokens(checkpoint.tokenizer, [text], config, len(CAMERAS))
        rows.append(model(features, mask, tokens.ids, tokens.mask).softmax(-1))
    return torch.cat(rows).numpy()
