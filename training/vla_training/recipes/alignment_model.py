# SPDX-License-Identifier: Apache-2.0
"""The stitched value function that an alignment begins with."""

import torch
from accelerate import PartialState

from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import load_value_model, read_value_checkpoint
from vla_nodes.models.value_config import Arch, full
from vla_training.recipes.alignment_settings import AlignmentSettings
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.pretrained import load_pretrained, pretrained_config
from vla_training.recipes.pretrained_tokenizer import gemma_tokenizer

ARCH: Arch = "stitched"


def make_stitched(settings: AlignmentSettings) -> tuple[StitchedValue, Tokenizer]:
    """The model and its tokenizer; only the projector requires gradients.

    Raises:
        CheckpointError: What it is made of is damaged, or does not fit.
        TrainingError: The checkpoint has no projector to align.
    """
    torch.manual_seed(settings.loop.seed)
    if settings.init:
        checkpoint = read_value_checkpoint(settings.init)
        if checkpoint.config.arch != ARCH:
            raise TrainingError(
                f"{settings.init} is a {checkpoint.config.arch} model, which writes no answers; "
                f"expected a {ARCH} one"
            )
        model, tokenizer = load_value_model(checkpoint), checkpoint.tokenizer
    else:
        assert settings.gemma  # settings without are refused
        tokenizer = gemma_tokenizer(settings.gemma)
        config = pretrained_config(ARCH, settings.siglip, settings.gemma, full(ARCH))
        model = StitchedValue(config)
        PartialState().print(load_pretrained(model, settings.siglip, settings.gemma))
    assert isinstance(model, StitchedValue)  # by its arch
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    return model, tokenizer
