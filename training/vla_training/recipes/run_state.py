# SPDX-License-Identifier: Apache-2.0
"""Where a training is, on the disk: whole or not there, and without pickle.

A state is a folder ``step-00001000`` with ``state.json`` and a few safetensors files.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla_training.data.errors import DataError
from vla_training.data.files import publish, write_json
from vla_training.data.labels.metadata import read_json
from vla_training.recipes.errors import TrainingError

Tensors = Mapping[str, Tensor]
_NAME = re.compile(r"step-(\d{8,})")
_ABOUT = "state.json"


def write_state(
    folder: Path, step: int, parts: Mapping[str, Tensors], about: Mapping[str, Any], keep: int
) -> None:
    """Writes a state, then deletes those that are not kept.

    Args:
        folder: Of all states.
        step: How many steps were made.
        parts: Tensors of each file, by name.
        about: What else there is to know, for JSON.
        keep: States that stay, the newest ones.

    Raises:
        TrainingError: The disk refused.
    """
    state = folder / f"step-{step:08d}"
    aside = folder / f".{state.name}.{os.getpid()}"
    for left in folder.glob(".step-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        shutil.rmtree(state, ignore_errors=True)
        aside.mkdir(parents=True)
        for name, tensors in parts.items():
            plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            save_file(plain, aside / f"{name}.safetensors")
        write_json(aside / _ABOUT, {"step": step, **about})
        publish(aside, state)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{state} cannot be written: {error!s:.200}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for _, old in _states(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def newest_state(folder: Path) -> Path | None:
    """The state of the most steps; None where there is none."""
    states = _states(folder)
    return states[-1][1] if states else None


def read_about(state: Path) -> dict[str, Any]:
    """What a state's ``state.json`` holds; ``step`` among it.

    Raises:
        TrainingError: It is missing or damaged.
    """
    try:
        about = read_json(state / _ABOUT)
    except (DataError, OSError) as error:
        raise TrainingError(str(error)) from error
    if about is None or type(about.get("step")) is not int:
        raise TrainingError(f"{state / _ABOUT} does not tell the step; delete {state}")
    return about


def read_part(state: Path, name: str, expected: Tensors) -> dict[str, Tensor]:
    """Tensors of one file.

    Args:
        state: Folder.
        name: Of the part.
        expected: Tensors of the names and shapes that are to be there.

    Raises:
        TrainingError: It is missing, damaged, or of another model.
    """
    path = state / f"{name}.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{path} cannot be read: {error!s:.200}; delete {state} to go on from the one before"
        ) from error
    for key in sorted(expected.keys() | tensors.keys()):
        ours, theirs = (t[key].shape if key in t else None for t in (expected, tensors))
        if ours != theirs:
            raise TrainingError(
                f"{path} is of another model: {key} is {_shape(theirs)}, expected {_shape(ours)}"
            )
    return tensors


def checksum(tensors: Tensors) -> str:
    """Tells weights from other weights, at the speed of memory and alike on every device."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        integer = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
        total = int(tensor.detach().contiguous().view(integer).sum())
        digest.update(f"{name} {tuple(tensor.shape)} {total}\n".encode())
    return digest.hexdigest()[:16]


def _states(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def _shape(shape: Any) -> str:
    return "missing" if shape is None else str(tuple(shape))
