# SPDX-License-Identifier: Apache-2.0
"""The column ``value``: what a value function says of every frame of a dataset."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import Settings
from vla_training.data.labels.metadata import read_json

_PARTS = ("config.json", "value.json", "model.safetensors", "tokenizer/tokenizer.json")


@dataclass(frozen=True)
class Prediction:
    """How values are predicted.

    Attributes:
        value_checkpoint: Folder of a value function, whose values become the column value.
        batch_size: Frames at a time.
        workers: Processes that decode.
        device: A GPU where there is one, if nothing is said.
        bf16: Compute in bfloat16.
        cache: Folder that keeps the features of pictures, for a value function with the same
            encoder; see the room it takes in the documentation.
    """

    value_checkpoint: Path | None = None
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    bf16: bool = False
    cache: Path | None = None


def checkpoint_digest(folder: Path) -> str:
    """Tells a value function from all others.

    Raises:
        DataError: It cannot be read.
    """
    digest = hashlib.sha256()
    for name in _PARTS:
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(
                f"{folder} is no checkpoint of a value function: {name}: {error.strerror}"
            ) from error
    return digest.hexdigest()


def check_scale(folder: Path, settings: Settings) -> None:
    """Refuses a value function whose values are of another scale than the returns are to be.

    Raises:
        DataError: It learnt from returns of another mode, or its own description is damaged.
    """
    learnt = (read_json(folder / "value.json") or {}).get("labels")
    scale = {"per_task": ("mode", "coefficient"), "global": ("mode", "max_steps")}
    for name in scale.get(settings.mode, ("mode",)):
        ours = getattr(settings, name)
        if isinstance(learnt, dict) and learnt.get(name, ours) != ours:
            raise DataError(
                f"{folder} learnt from returns of {name} {learnt[name]!r:.50}, and {name} is "
                f"{ours!r} here: advantages would mean nothing; expected the same"
            )


def predict_column(
    root: Path, lengths: npt.NDArray[np.int64], prediction: Prediction, key: str
) -> npt.NDArray[np.float32]:
    """Values of a dataset's frames, (N,); images/s go to stderr.

    Each episode's values are put beside the dataset at once, so that an interrupted run goes on
    behind the last one.

    Args:
        root: Of the dataset.
        lengths: (E,) frames of each episode.
        prediction: With a checkpoint.
        key: Of checkpoint and data; values under another key are not taken for these.

    Raises:
        CheckpointError: The checkpoint is no trained value function.
        DataError: A camera, a picture or a text is missing.
    """
    folder = _folder(root) / key[:32]
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        episode: _read(folder / f"{episode}.npy", length) for episode, length in enumerate(lengths)
    }
    missing = [episode for episode, part in parts.items() if part is None]
    if len(missing) < len(parts):
        print(f"{len(parts) - len(missing)} episodes have values already", file=sys.stderr)
    pictures, seconds = 0, 0.0
    for made in _predicted(root, missing, prediction):
        episode = int(made.episode[0])
        _write(folder / f"{episode}.npy", made.value)
        parts[episode] = made.value
        pictures, seconds = pictures + made.pictures, seconds + made.seconds
    if missing:
        print(
            f"{pictures} images in {seconds:.1f} s: {pictures / seconds:.0f} images/s",
            file=sys.stderr,
        )
    return np.concatenate([part for part in parts.values() if part is not None])


def forget_parts(root: Path) -> None:
    """Removes what ``predict_column`` has put beside a dataset."""
    shutil.rmtree(_folder(root), ignore_errors=True)


def _predicted(root: Path, episodes: list[int], prediction: Prediction) -> Iterator[Any]:
    if not episodes:
        return
    # PyTorch takes seconds to import, and labels without a model need none of it.
    import torch

    from vla_nodes.models.value_checkpoint import read_value_checkpoint
    from vla_training.evaluation.value_predictions import predict_episodes
    from vla_training.options import chosen_device

    assert prediction.value_checkpoint is not None
    yield from predict_episodes(
        read_value_checkpoint(prediction.value_checkpoint),
        root,
        episodes,
        batch_size=prediction.batch_size,
        workers=prediction.workers,
        device=chosen_device(prediction.device),
        cache=prediction.cache,
        dtype=torch.bfloat16 if prediction.bf16 else torch.float32,
    )


def _folder(root: Path) -> Path:
    return root.with_name(f".{root.name}.values")


def _read(path: Path, length: int) -> npt.NDArray[np.float32] | None:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError):  # an unfinished one is made again
        return None
    return values if values.dtype == np.float32 and values.shape == (length,) else None


def _write(path: Path, values: npt.NDArray[np.float32]) -> None:
    aside = path.with_suffix(".new")
    with aside.open("wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
