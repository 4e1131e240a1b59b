# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of pi0.5: folders that hold all that a policy needs, with no network.

``config.json`` and ``pi05.json``, ``model.safetensors``, ``tokenizer/`` and
``normalization.json``. LeRobot's folders and openpi's converted ones are read as they are, but
for the tokenizer, which has to be put into them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vla_nodes.models.checkpoint_folder import check_same, find_checkpoint, write_folder, written
from vla_nodes.models.errors import CheckpointError, faults_of
from vla_nodes.models.lerobot_format import (
    CONFIG,
    OWN_CONFIG,
    is_lerobots,
    read_config,
    write_config,
)
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import Pi05Config
from vla_nodes.models.prompts import ACTION_MARK
from vla_nodes.models.robot_interface import RobotInterface
from vla_nodes.models.stored_tensors import FILE
from vla_nodes.models.tokenizer import TOKENIZER, Tokenizer
from vla_nodes.models.weights import (
    KeyReport,
    check_finite,
    compare,
    load_weights,
    save_weights,
)

__all__ = [
    "Checkpoint",
    "KeyReport",
    "RobotInterface",
    "find_checkpoint",
    "load_model",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]


# Where the model computes in float32 whatever the type of the rest: their weights keep it.
_FLOAT32 = re.compile(r"language_model\..*norm\.weight|\.dense\.|^time_mlp_|^action_out_proj")


@dataclass(frozen=True)
class Checkpoint:
    """All of a checkpoint but its weights.

    Attributes:
        folder: Where it lies.
        config: Sizes.
        robot: What it was trained for; None where it does not say.
        normalization: Of states and actions.
        tokenizer: Of its prompts.
        written: Tells it from another that takes its place.
    """

    folder: Path
    config: Pi05Config
    robot: RobotInterface | None
    normalization: Normalization
    tokenizer: Tokenizer
    written: tuple[int, ...]

    @property
    def subtask_end(self) -> int:
        """The token that the planner writes behind a subtask."""
        if self.robot and self.robot.action_tokens:
            return self.tokenizer.encode(ACTION_MARK)[0]
        return self.tokenizer.eos_id


def read_checkpoint(source: str | Path) -> Checkpoint:
    """Reads all but the weights, of which it reads and checks names and shapes.

    Args:
        source: As in ``find_checkpoint``.

    Raises:
        CheckpointError: Something is missing, damaged, or does not fit the rest.
    """
    folder = find_checkpoint(source)
    stamp = written(folder)
    config, robot = read_config(folder)
    compare(folder, _on_meta(config))
    normalization = Normalization.read(folder)
    tokenizer = Tokenizer.read(folder / TOKENIZER)
    checkpoint = Checkpoint(folder, config, robot, normalization, tokenizer, stamp)
    check_same(folder, stamp)
    _check_parts(checkpoint)
    return checkpoint


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Pi05:
    """Loads the model of a checkpoint, tensor by tensor, so that nothing is held twice.

    Args:
        checkpoint: As it was read.
        dtype: Of all but what the model computes in float32: the norms of language model and
            expert, the embedding of flow time, and the last projection.
        device: Where to.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: The weights do not fit, are damaged, or were replaced meanwhile.
    """
    model = _on_meta(checkpoint.config)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if _FLOAT32.search(name) else dtype)
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        if not name.endswith("embeddings.position_ids"):
            raise AssertionError(f"{name} is in no checkpoint, and nothing fills it")
        buffer.copy_(torch.arange(buffer.shape[-1]))
    load_weights(model, checkpoint.folder)
    check_same(checkpoint.folder, checkpoint.written)
    return model.eval()


def write_checkpoint(
    folder: Path,
    weights: nn.Module | Mapping[str, Tensor],
    config: Pi05Config,
    robot: RobotInterface | None,
    normalization: Normalization,
    tokenizer: Tokenizer,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Writes a checkpoint, whole or not at all.

    It is written aside, read back, and then takes its name. A checkpoint of that name that was
    written here is exchanged for it in one step; any other folder that is not empty is left
    alone.

    Args:
        folder: To be.
        weights: A ``Pi05`` or its ``state_dict``, in the type to be stored.
        config: Of the model.
        robot: What it was trained for.
        normalization: Of states and actions.
        tokenizer: Of its prompts.
        write_more: Adds files to the folder it is given.

    Raises:
        CheckpointError: The parts do not fit each other, weights are not finite, or the place
            is taken.
        OSError: The disk refused.
    """
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights

    def fill(partial: Path) -> None:
        dtype = "bfloat16" if _most_are_bfloat16(tensors) else "float32"
        write_config(partial, config, robot, normalization, dtype)
        normalization.write(partial)
        tokenizer.write(partial / TOKENIZER)
        dead_head = (config.vocabulary, config.expert.width) if is_lerobots(config) else None
        save_weights(partial / FILE, tensors, dead_head)
        if write_more is not None:
            write_more(partial)
        read_checkpoint(partial)
        check_finite(partial, tensors)

    write_folder(folder, fill, (CONFIG, OWN_CONFIG))


def _on_meta(config: Pi05Config) -> Pi05:
    with torch.device("meta"):
        return Pi05(config)


def _check_parts(checkpoint: Checkpoint) -> None:
    """Whether the parts, each right in itself, fit each other."""
    folder, config, robot = checkpoint.folder, checkpoint.config, checkpoint.robot
    if checkpoint.tokenizer.size > config.vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has {checkpoint.tokenizer.size} tokens, the model "
            f"{config.vocabulary}; put the model's own into {TOKENIZER}/"
        )
    names = (robot.state_names, robot.action_names) if robot else (None, None)
    most = (config.max_state_dim, config.max_action_dim)
    scalings = (checkpoint.normalization.state, checkpoint.normalization.action)
    for what, ours, scaling, limit in zip(("state", "action"), names, scalings, most, strict=True):
        if len(scaling.names) > limit:
            raise CheckpointError(
                f"{folder}: statistics of {len(scaling.names)} elements of {what}, the model "
                f"takes {limit}"
            )
        if ours is not None:
            with faults_of(f"{folder}: {what}"):
                scaling.named(ours)


def _most_are_bfloat16(tensors: Mapping[str, Tensor]) -> bool:
    halves = sum(t.numel() for t in tensors.values() if t.dtype == torch.bfloat16)
    return 2 * halves > sum(t.numel() for t in tensors.values())
