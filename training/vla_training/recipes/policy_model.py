# SPDX-License-Identifier: Apache-2.0
"""The pi0.5 that a training begins with, and what of it is trained."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vla_nodes.models.checkpoint import TOKENIZER, find_checkpoint, load_weights
from vla_nodes.models.lerobot_format import read_config
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import SIZES, Pi05Config
from vla_nodes.models.robot_interface import RobotInterface
from vla_nodes.models.tokenizer import Tokenizer
from vla_nodes.models.weights import compare
from vla_training.recipes.digests import digest, file_digests
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.lora import adapt
from vla_training.recipes.policy_settings import PolicySettings
from vla_training.tokens.fast import FastTokenizer
from vla_training.tokens.planner_target import RESERVED, check_vocabulary

FAST = "fast"
"""Folder of the FAST tokeniser in a checkpoint."""
_LANGUAGE, _EXPERT = "language_model", "gemma_expert.model"
"""The Gemmas of a pi0.5 in the names of its parameters."""
_ROWS = 64
"""Of the token embedding come in multiples of this, which suits matrix products."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a training begins with.

    Attributes:
        config: Of the model.
        tokenizer: Of its texts.
        fast: Of its action tokens; None for none.
        folder: Checkpoint that its weights come from; None for new ones.
        robot: That the checkpoint was trained for; None where it does not say.
    """

    config: Pi05Config
    tokenizer: Tokenizer
    fast: FastTokenizer | None
    folder: Path | None
    robot: RobotInterface | None


def read_beginning(policy: PolicySettings) -> Beginning:
    """Reads tokenisers and checkpoint, all but the weights.

    Of a checkpoint no statistics are needed, nor a tokeniser where another is given: published
    ones often lack both.

    Raises:
        CheckpointError: Something of them is missing or damaged.
        FastError: Likewise.
        TrainingError: They do not fit each other.
    """
    settings = policy.model
    init = find_checkpoint(settings.init) if settings.init else None
    robot = None
    folder = settings.fast or (init and _own_fast(init, policy))
    fast = FastTokenizer.read(folder) if folder else None
    words = settings.tokenizer or (init and init / TOKENIZER)
    assert words is not None  # settings without both are refused
    if not settings.tokenizer and not words.exists():
        raise TrainingError(f"{init} has no tokeniser; give the model's own by --tokenizer FOLDER")
    tokenizer = Tokenizer.read(words)
    if init:
        config, robot = read_config(init)
        with torch.device("meta"):
            compare(init, Pi05(config))  # by names and shapes, before the data are read
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
            f"{words} has {tokenizer.size} tokens, and the model {config.vocabulary}; expected "
            "the tokeniser that the checkpoint was trained with"
        )
    if fast and policy.plans:
        if fast.settings.chunk != config.chunk:
            raise TrainingError(
                f"{folder} is of chunks of {fast.settings.chunk} actions, and the model of "
                f"{config.chunk}; fit it with --chunk {config.chunk}"
            )
        overwrite = init is not None
        check_vocabulary(tokenizer.size, fast.size, config.vocabulary, overwrite=overwrite)
    return Beginning(config, tokenizer, fast, init, robot)


def _own_fast(init: Path, policy: PolicySettings) -> Path | None:
    """The FAST tokeniser of a checkpoint, where its planner goes on writing action tokens."""
    folder = init / FAST
    if policy.mode == "expert":
        return folder if folder.is_dir() else None
    return folder if policy.mode == "planner-fast" else None


def make_model(beginning: Beginning, settings: PolicySettings) -> Pi05:
    """The model, whose parameters require gradients where they are trained.

    Raises:
        CheckpointError: The weights are damaged, or do not fit the configuration.
    """
    torch.manual_seed(settings.loop.seed)
    model = Pi05(beginning.config)
    if beginning.folder:
        load_weights(model, beginning.folder)
    model.checkpointing = settings.model.gradient_checkpointing
    choose_trained(model, settings)
    return model


def digests(beginning: Beginning, normalization: Normalization, robot: RobotInterface) -> dict:
    """Of tokenisers, of the data's statistics and of the robot, for ``Job.identity``."""

    def write(folder: Path) -> None:
        normalization.write(folder)
        beginning.tokenizer.write(folder / TOKENIZER)
        if beginning.fast:
            beginning.fast.write(folder / FAST)

    return {**file_digests(write), "robot": digest(repr(robot).encode())}


def choose_trained(model: Pi05, settings: PolicySettings) -> None:
    """Freezes what the mode does not train, and puts adapters where they are asked for."""
    acting = (model.expert, model.action_in_proj, model.action_out_proj)
    for part in (*acting, model.time_mlp_in, model.time_mlp_out):
        part.requires_grad_(settings.acts)
    model.vlm.requires_grad_(settings.plans)
    if settings.model.freeze_vision:
        model.vision.requires_grad_(False)
    if settings.model.lora:
        stacks = [_LANGUAGE] if settings.plans else [_EXPERT]
        if settings.model.lora_expert and settings.plans:
            stacks.append(_EXPERT)
        adapt(model, stacks, settings.model.lora, settings.model.lora_alpha)
