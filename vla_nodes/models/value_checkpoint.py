# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of value functions: folders that hold all that an estimate needs, with no network.

``config.json``, ``value.json``, ``model.safetensors`` and ``tokenizer/``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from vla_nodes.models.checkpoint_folder import (
    CONFIG,
    check_same,
    find_checkpoint,
    write_folder,
    written,
)
from vla_nodes.models.cross_attention_value import CrossAttentionValue
from vla_nodes.models.entries import LARGEST, Entries
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.files import read_object, write_object
from vla_nodes.models.pi05_config import GemmaSize, VisionSize
from vla_nodes.models.stitched_value import StitchedValue
from vla_nodes.models.stored_tensors import FILE
from vla_nodes.models.tokenizer import TOKENIZER, Tokenizer
from vla_nodes.models.value_config import ARCHS, INTERFACE, TYPE, Arch, ValueConfig
from vla_nodes.models.value_model import make_value_model
from vla_nodes.models.value_prompt import MAX_CHARACTERS
from vla_nodes.models.weights import check_finite, compare, load_weights, save_tensors

_VISION = ("width", "depth", "mlp", "heads", "patch")
_LANGUAGE = ("width", "depth", "mlp", "heads", "kv_heads", "head_dim")
_NUMBERS = ("window", "vocabulary", "image_size", "history", "max_tokens", "attention_heads")
_MOST = {"depth": 128, "image_size": 8192, "history": 64, "max_tokens": 8192}


@dataclass(frozen=True)
class ValueInterface:
    """What a value function was trained to see, and on which data.

    Attributes:
        cameras: In the order in which the model gets them.
        fps: Frames per second of the data.
        tasks: Texts that it was trained with, subtasks among them.
        split_seed: Of the split of the data by episode.
        shares: Of training, validation and test in it.
        labels: How returns were made; the settings in the data's ``meta/labels.json``.
    """

    cameras: tuple[str, ...]
    fps: float
    tasks: tuple[str, ...]
    split_seed: int
    shares: tuple[float, float, float]
    labels: Mapping[str, Any]


@dataclass(frozen=True)
class ValueCheckpoint:
    """All of a checkpoint but its weights.

    Attributes:
        folder: Where it lies.
        config: Sizes.
        interface: What it was trained for; None for a model that was aligned only.
        tokenizer: Of its texts.
        written: Tells it from another that takes its place.
    """

    folder: Path
    config: ValueConfig
    interface: ValueInterface | None
    tokenizer: Tokenizer
    written: tuple[int, ...]


def read_value_checkpoint(source: str | Path) -> ValueCheckpoint:
    """Reads all but the weights, of which it reads and checks names and shapes.

    Args:
        source: A folder, or OWNER/NAME on the Hugging Face Hub.

    Raises:
        CheckpointError: Something is missing, damaged, or does not fit the rest.
    """
    folder = find_checkpoint(source)
    stamp = written(folder)
    config = read_value_config(folder)
    interface = _read_interface(folder / INTERFACE) if (folder / INTERFACE).exists() else None
    with torch.device("meta"):
        compare(folder, make_value_model(config))
    tokenizer = Tokenizer.read(folder / TOKENIZER)
    check_same(folder, stamp)
    _check_tokenizer(folder, tokenizer, config)
    return ValueCheckpoint(folder, config, interface, tokenizer, stamp)


def load_value_model(
    checkpoint: ValueCheckpoint,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> CrossAttentionValue | StitchedValue:
    """Loads the model of a checkpoint.

    Args:
        checkpoint: As it was read.
        dtype: Of all but the head, which computes in float32.
        device: Where to.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: The weights do not fit, are damaged, or were replaced meanwhile.
    """
    with no_init_weights():
        model = make_value_model(checkpoint.config)
    for name, parameter in model.named_parameters():
        if not name.startswith("head."):
            parameter.data = parameter.data.to(dtype)
    load_weights(model, checkpoint.folder)
    check_same(checkpoint.folder, checkpoint.written)
    return model.to(device).eval()


def write_value_checkpoint(
    folder: Path,
    weights: nn.Module | Mapping[str, Tensor],
    config: ValueConfig,
    interface: ValueInterface | None,
    tokenizer: Tokenizer,
) -> None:
    """Writes a checkpoint, whole or not at all; one that is there is replaced in one step.

    Args:
        folder: To be.
        weights: A model or its ``state_dict``, in the type to be stored.
        config: Of the model.
        interface: What it was trained for.
        tokenizer: Of its texts.

    Raises:
        CheckpointError: The parts do not fit each other, weights are not finite, or the place
            is taken.
        OSError: The disk refused.
    """
    if (folder / CONFIG).exists():
        read_value_config(folder)  # another model's folder is not replaced
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights

    def fill(partial: Path) -> None:
        write_object(partial / CONFIG, {"type": TYPE, **asdict(config)})
        if interface is not None:
            write_object(partial / INTERFACE, vars(interface) | {"labels": dict(interface.labels)})
        tokenizer.write(partial / TOKENIZER)
        save_tensors(partial / FILE, tensors)
        read_value_checkpoint(partial)
        check_finite(partial, tensors)

    write_folder(folder, fill, (CONFIG, TOKENIZER + "/tokenizer.json"))


def read_value_config(folder: Path) -> ValueConfig:
    """Reads ``config.json``.

    Raises:
        CheckpointError: It is missing or wrong, or of another kind of model.
    """
    file = folder / CONFIG
    entries = Entries(file, read_object(file))
    kind = entries.raw("type")
    if kind != TYPE:
        raise CheckpointError(
            f"{file}: type is {kind!r:.50}, expected {TYPE!r}: this is no value function"
        )
    vision, language = entries.part("vision"), entries.part("language")
    arch: Arch = entries.choice("arch", {name: name for name in ARCHS})
    parts: dict[str, Any] = {
        "vision": VisionSize(**{name: _size(vision, name) for name in _VISION}),
        "language": GemmaSize(**{name: _size(language, name) for name in _LANGUAGE}),
    }
    numbers: dict[str, Any] = {name: _size(entries, name) for name in _NUMBERS}
    step = entries.number("history_step")
    for part in (vision, language, entries):
        part.refuse_left()
    try:
        return ValueConfig(arch=arch, **parts, **numbers, history_step=step)
    except ValueError as error:
        raise CheckpointError(f"{file}: the model's sizes do not fit: {error}") from None


def _size(entries: Entries, name: str) -> int:
    return entries.integer(name, most=_MOST.get(name, LARGEST))


def _check_tokenizer(folder: Path, tokenizer: Tokenizer, config: ValueConfig) -> None:
    """Whether the model knows all tokens that a text becomes.

    The tokenizer that comes with Gemma 3 has one token more than its embedding has rows: a
    special one that stands for pictures, and that no text becomes.
    """
    known = config.vocabulary
    if tokenizer.size == known + 1 and not tokenizer.decode([known]):
        known += 1
    ends = max(tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    if tokenizer.size > known or ends >= config.vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.size} tokens, the model "
            f"{config.vocabulary}; put the model's own into {TOKENIZER}/"
        )


def _read_interface(file: Path) -> ValueInterface:
    entries = Entries(file, read_object(file))
    cameras, tasks = entries.names("cameras"), entries.raw("tasks")
    labels = entries.raw("labels")
    if not cameras:
        entries.refuse("cameras", "names of one camera at least")
    if not isinstance(tasks, list) or not all(map(_is_task, tasks)):
        entries.refuse("tasks", f"a list of texts of 1 to {MAX_CHARACTERS} characters")
    if not isinstance(labels, dict):
        entries.refuse("labels", "an object")
    interface = ValueInterface(
        cameras=cameras,
        fps=entries.number("fps"),
        tasks=tuple(tasks),
        split_seed=entries.integer("split_seed", 0, 2**31),
        shares=entries.shares("shares"),
        labels=labels,
    )
    entries.refuse_left()
    return interface


def _is_task(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_CHARACTERS
