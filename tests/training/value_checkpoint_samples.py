# SPDX-License-Identifier: Apache-2.0
"""Small value functions with random weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vla_nodes.models.value_checkpoint import (
    ValueCheckpoint,
    ValueInterface,
    read_value_checkpoint,
    write_value_checkpoint,
)
from vla_nodes.models.value_config import SIZES, Arch
from vla_nodes.models.value_model import make_value_model
from vla_training.tokens.fit_tokenizer import fit_tokenizer


def make_value_checkpoint(
    folder: Path,
    tasks: Sequence[str],
    cameras: Sequence[str],
    arch: Arch = "cross-attention",
    history: int = 1,
    seed: int = 0,
) -> ValueCheckpoint:
    """Writes one; its history is three frames apart at 10 fps."""
    torch.manual_seed(seed)
    config = replace(SIZES["tiny"](arch), history=history, history_step=0.3)
    interface = ValueInterface(tuple(cameras), 10.0, tuple(tasks), 0, (0.8, 0.1, 0.1), {})
    tokenizer = fit_tokenizer(tasks, [], 500)
    write_value_checkpoint(folder, make_value_model(config), config, interface, tokenizer)
    return read_value_checkpoint(folder)
