# SPDX-License-Identifier: Apache-2.0
"""The value function that a training begins with, and what of it is trained."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState

from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.value_checkpoint import ValueInterface, read_value_checkpoint
from vla_nodes.models.value_config import SIZES, Arch, ValueConfig
from vla_nodes.models.value_model import make_value_model
from vla_nodes.models.weights import load_weights
from vla_training.recipes.digests import digest, file_digests
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.lora import adapt
from vla_training.recipes.pretrained import load_pretrained, pretrained_config
from vla_training.recipes.pretrained_tokenizer import gemma_tokenizer
from vla_training.recipes.value_settings import ValueModelSettings

Model = CrossAttentionValue | StitchedValue
_ROWS = 64
"""Of the token embedding come in multiples of this, which suits matrix products."""


@dataclass(frozen=True, eq=False)
class ValueBeginning:
    """What a training begins with.

    Attributes:
        config: Of the model.
        tokenizer: Of its texts.
        init: Checkpoint that its weights come from; None for pretrained or new ones.
        interface: That the checkpoint was trained for; None where it does not say.
    """

    config: ValueConfig
    tokenizer: Tokenizer
    init: Path | None = None
    interface: ValueInterface | None = None


def read_value_beginning(arch: Arch, settings: ValueModelSettings) -> ValueBeginning:
    """Reads tokeniser and sizes of checkpoint, SigLIP and Gemma, but no weights.

    Raises:
        CheckpointError: Something of them is missing or damaged.
        TrainingError: They do not fit each other.
    """
    if settings.init:
        checkpoint = read_value_checkpoint(settings.init)
        if checkpoint.config.arch != arch:
            raise TrainingError(
                f"{settings.init} is a {checkpoint.config.arch} model, expected a {arch} one"
            )
        tokenizer = (
            Tokenizer.read(settings.tokenizer) if settings.tokenizer else checkpoint.tokenizer
        )
        beginning = ValueBeginning(
            checkpoint.config, tokenizer, checkpoint.folder, checkpoint.interface
        )
    else:
        tokenizer = (
            Tokenizer.read(settings.tokenizer)
            if settings.tokenizer
            else gemma_tokenizer(settings.gemma or "")
        )
        base = SIZES[settings.size](arch)
        if not settings.gemma:
            base = replace(base, vocabulary=-(-tokenizer.size // _ROWS) * _ROWS)
        beginning = ValueBeginning(
            pretrained_config(arch, settings.siglip, settings.gemma, base), tokenizer
        )
    config = beginning.config
    try:
        config = replace(
            config,
            history=config.history if settings.history is None else settings.history,
            history_step=(
                config.history_step if settings.history_step is None else settings.history_step
            ),
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if beginning.tokenizer.size > config.vocabulary:
        raise TrainingError(
            f"the tokeniser has {beginning.tokenizer.size} tokens, and the model "
            f"{config.vocabulary}; expected the model's own"
        )
    return replace(beginning, config=config)


def make_model(beginning: ValueBeginning, settings: ValueModelSettings, seed: int) -> Model:
    """The model, whose parameters require gradients where they are trained.

    Raises:
        CheckpointError: The weights are damaged, or do not fit the configuration.
    """
    torch.manual_seed(seed)
    model = make_value_model(beginning.config)
    if beginning.init:
        # A history that the checkpoint did not have brings new embeddings of ages.
        load_weights(model, beginning.init, strict=beginning.config.history == 1)
    else:
        PartialState().print(load_pretrained(model, settings.siglip, settings.gemma))
    if settings.freeze_vision:
        model.vision.requires_grad_(False)
    if settings.freeze_language:
        model.language.requires_grad_(False)
    elif settings.lora:
        adapt(model, ["language"], settings.lora, settings.lora_alpha, settings.lora_dropout)
    return model


def digests(beginning: ValueBeginning, interface: ValueInterface) -> dict[str, str]:
    """Of tokeniser, sizes and interface, for ``Job.identity``."""
    return {
        **file_digests(beginning.tokenizer.write),
        "sizes": digest(repr(beginning.config).encode()),
        "interface": digest(repr(interface).encode()),
    }
