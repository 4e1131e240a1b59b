# SPDX-License-Identifier: Apache-2.0
"""The pi0.5 that a training begins with, and what of it is trained."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vla_nodes.models.checkpoint import Checkpoint, load_model, read_checkpoint
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import SIZES, Pi05Config
from vla_nodes.models.tokenizer import Tokenizer
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.lora import adapt
from vla_training.recipes.policy_settings import PolicySettings
from vla_training.tokens.fast import FastTokenizer
from vla_training.tokens.planner_target import RESERVED, check_vocabulary

FAST = "fast"
"""Folder of the FAST tokeniser in a checkpoint."""
_ROWS = 64
"""Of the token embedding come in multiples of this, which suits matrix products."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a training begins with.

    Attributes:
        config: Of the model.
        tokenizer: Of its texts.
        fast: Of its action tokens; None for none.
        checkpoint: That its weights come from; None for new ones.
    """

    config: Pi05Config
    tokenizer: Tokenizer
    fast: FastTokenizer | None
    checkpoint: Checkpoint | None


def read_beginning(policy: PolicySettings) -> Beginning:
    """Reads tokenisers and checkpoint, all but the weights.

    Raises:
        CheckpointError: Something of them is missing or damaged.
        FastError: Likewise.
        TrainingError: They do not fit each other.
    """
    settings = policy.model
    checkpoint = read_checkpoint(settings.init) if settings.init else None
    folder = settings.fast or (checkpoint and _own_fast(checkpoint, policy))
    fast = FastTokenizer.read(folder) if folder else None
    if settings.tokenizer:
        tokenizer = Tokenizer.read(settings.tokenizer)
    else:
        assert checkpoint is not None  # settings without both are refused
        tokenizer = checkpoint.tokenizer
    if checkpoint:
        config = checkpoint.config
    else:
        rows = tokenizer.size + (fast.size if fast else 0) + RESERVED
        config = replace(SIZES[settings.size](), vocabulary=-(-rows // _ROWS) * _ROWS)
    chunk = config.chunk if settings.chunk is None else settings.chunk
    delay = config.max_delay if settings.max_delay is None else settings.max_delay
    try:
        config = replace(config, chunk=chunk, max_delay=delay)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if tokenizer.size > config.vocabulary:
        raise TrainingError(
            f"{settings.tokenizer} has {tokenizer.size} tokens, and the model {config.vocabulary}; "
            "leave out --tokenizer to take the checkpoint's own"
        )
    if fast and policy.plans:
        if fast.settings.chunk != config.chunk:
            raise TrainingError(
                f"{folder} is of chunks of {fast.settings.chunk} actions, and the model of "
                f"{config.chunk}; fit it with --chunk {config.chunk}"
            )
        overwrite = settings.init is not None
        check_vocabulary(tokenizer.size, fast.size, config.vocabulary, overwrite=overwrite)
    return Beginning(config, tokenizer, fast, checkpoint)


def _own_fast(checkpoint: Checkpoint, policy: PolicySettings) -> Path | None:
    """The FAST tokeniser of a checkpoint, where its planner goes on writing action tokens."""
    folder = checkpoint.folder / FAST
    if policy.mode == "expert":
        return folder if folder.is_dir() else None
    return folder if policy.mode == "planner-fast" else None


def make_model(beginning: Beginning, settings: PolicySettings) -> Pi05:
    """The model, whose parameters require gradients where they are trained.

    Raises:
        CheckpointError: The weights are damaged.
    """
    torch.manual_seed(settings.loop.seed)
    if beginning.checkpoint:
        model = load_model(replace(beginning.checkpoint, config=beginning.config))
    else:
        model = Pi05(beginning.config)
    model.checkpointing = settings.model.gradient_checkpointing
    choose_trained(model, settings)
    return model


def choose_trained(model: Pi05, settings: PolicySettings) -> None:
    """Freezes what the mode does not train, and puts adapters where they are asked for."""
    acting = (model.expert, model.action_in_proj, model.action_out_proj)
    for part in (*acting, model.time_mlp_in, model.time_mlp_out):
        part.requires_grad_(settings.acts)
    model.vlm.requires_grad_(settings.plans)
    if settings.model.freeze_vision:
        model.vision.requires_grad_(False)
    if settings.model.lora:
        stacks = ["language"] if settings.plans else ["expert"]
        if settings.model.lora_expert and settings.plans:
            stacks.append("expert")
        adapt(model, tuple(stacks), settings.model.lora, settings.model.lora_alpha)
