# SPDX-License-Identifier: Apache-2.0
"""What a value function says of every frame of recorded episodes."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from vla_nodes.models.c51 import expected_value
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.pi05_batch import Tokens
from vla_nodes.models.value_checkpoint import ValueCheckpoint, load_value_model
from vla_nodes.models.value_prompt import value_tokens
from vla_training.data.errors import DataError
from vla_training.data.loading.frame_columns import Words
from vla_training.evaluation.value_features import FeatureCache, Model, encode_pictures
from vla_training.evaluation.value_frames import (
    Block,
    Text,
    ValueFrames,
    cut_blocks,
    open_frames,
)
from vla_training.evaluation.value_pictures import read_stretches


@dataclass(frozen=True, eq=False)
class ValuePredictions:
    """F frames, episode after episode.

    Attributes:
        episode: (F,) index in the dataset.
        frame: (F,) place in the episode.
        task: (F,) what the model was told.
        probabilities: (F, 201) float32, of ``c51``'s atoms.
        value: (F,) float32, their expectation.
        pictures: That were encoded, or read from the cache.
        seconds: That it took, filling the cache included, loading the model not.
    """

    episode: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    task: Words
    probabilities: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    pictures: int
    seconds: float

    def __len__(self) -> int:
        return len(self.value)


def predict_values(
    checkpoint: ValueCheckpoint,
    root: Path,
    episodes: Sequence[int],
    *,
    stride: int = 1,
    batch_size: int = 32,
    workers: int = 2,
    device: torch.device | str | None = None,
    cache: Path | None = None,
    text: Text = "task",
    dtype: torch.dtype = torch.float32,
) -> ValuePredictions:
    """Values of all frames of some episodes; images/s go to stderr.

    Args:
        checkpoint: Of a trained value function.
        root: Of a LeRobot v3 dataset.
        episodes: Indices.
        stride: Take every such frame of an episode only, from its first on.
        batch_size: Pictures, and frames, at a time.
        workers: Processes that decode.
        device: None for a GPU where there is one.
        cache: Folder that keeps the pictures' features, in float16; see ``value_features``.
        text: What the model is told; with "subtask", frames without one are left out.
        dtype: Of the model.

    Raises:
        CheckpointError: The checkpoint is damaged, was never trained on values, or gives what is
            not finite.
        DataError: A camera or picture is missing, a text cannot be read, or as of
            ``open_features``.
    """
    parts = list(
        predict_episodes(
            checkpoint,
            root,
            episodes,
            stride=stride,
            batch_size=batch_size,
            workers=workers,
            device=device,
            cache=cache,
            text=text,
            dtype=dtype,
        )
    )
    result = _joined(parts)
    speed = result.pictures / result.seconds
    print(
        f"{result.pictures} images in {result.seconds:.1f} s: {speed:.0f} images/s",
        file=sys.stderr,
    )
    return result


def predict_episodes(
    checkpoint: ValueCheckpoint,
    root: Path,
    episodes: Sequence[int],
    *,
    stride: int = 1,
    batch_size: int = 32,
    workers: int = 2,
    device: torch.device | str | None = None,
    cache: Path | None = None,
    text: Text = "task",
    dtype: torch.dtype = torch.float32,
) -> Iterator[ValuePredictions]:
    """As ``predict_values``, one episode after another, in ascending order.

    An episode of which no frame has a subtask gives nothing where that is asked for.
    """
    if batch_size < 1 or workers < 0 or stride < 1:
        raise DataError(
            f"batch_size {batch_size}, workers {workers} and stride {stride}, expected at least "
            "1, 0 and 1"
        )
    frames = open_frames(checkpoint, root, episodes, stride, text)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokens = _tokens(checkpoint, frames, device)
    model = load_value_model(checkpoint, dtype, device)
    blocks = cut_blocks(frames, batch_size)
    stretches = [stretch for block in blocks for stretch in block.new]
    begin = time.perf_counter()
    if cache is None:
        pictures = read_stretches(frames.source, frames.table, stretches, workers)
        features = (encode_pictures(model, one) for one in pictures)
    else:
        stored = FeatureCache(cache, frames.source, frames.table, model)
        stored.fill(np.unique(frames.views), batch_size=batch_size, workers=workers)
        features = (stored.read(*stretch) for stretch in stretches)
    yield from _run(model, frames, tokens, features, blocks, begin)


def _tokens(checkpoint: ValueCheckpoint, frames: ValueFrames, device: torch.device | str) -> Tokens:
    """Prompts of the texts, by their code."""
    words, cameras = frames.task, len(frames.source.clips)
    used = set(words.codes.tolist())
    some = words.texts[min(used)]  # stands for texts that no frame has, which may be empty
    texts = [text if code in used else some for code, text in enumerate(words.texts)]
    try:
        tokens = value_tokens(checkpoint.tokenizer, texts, checkpoint.config, cameras)
    except ValueError as error:
        raise DataError(f"{frames.source.root}: {error}") from None
    return Tokens(tokens.ids.to(device), tokens.mask.to(device))


def _run(
    model: Model,
    frames: ValueFrames,
    tokens: Tokens,
    features: Iterator[Tensor],
    blocks: Sequence[Block],
    begin: float,
) -> Iterator[ValuePredictions]:
    """Estimates, episode by episode; ``features`` are those of the blocks' stretches, in order.

    The time of the first episode counts from ``begin``, of each other from the one before it.
    """
    held: dict[tuple[str, int], Tensor] = {}
    done: list[Tensor] = []
    first, pictures = 0, 0
    total = sum(len(stretch.rows) for block in blocks for stretch in block.new)
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, unit=" images", leave=False, disable=quiet) as bar:
        for block in blocks:
            for camera, rows in block.new:
                held |= {
                    (camera, row): one
                    for row, one in zip(rows.tolist(), next(features), strict=True)
                }
                pictures += len(rows)
                bar.update(len(rows))
            done.append(_estimate(model, frames, tokens, held, block.chosen))
            held = {key: one for key, one in held.items() if key[1] in block.later}
            if block.ends:
                chosen = slice(first, block.chosen.stop)
                seconds = time.perf_counter() - begin
                yield _predictions(frames, chosen, torch.cat(done), pictures, seconds)
                done, first = [], block.chosen.stop
                pictures, begin = 0, time.perf_counter()


def _estimate(
    model: Model,
    frames: ValueFrames,
    tokens: Tokens,
    held: Mapping[tuple[str, int], Tensor],
    chosen: slice,
) -> Tensor:
    """Logits of some frames, (N, 201)."""
    cameras, device = tuple(frames.source.clips), tokens.ids.device
    with torch.inference_mode():
        views = torch.stack(
            [
                torch.stack([held[camera, row] for camera in cameras for row in rows])
                for rows in frames.views[chosen].tolist()
            ]
        ).to(device)
        mask = torch.ones(views.shape[:2], dtype=torch.bool, device=device)
        codes = torch.from_numpy(frames.task.codes[chosen]).to(device)
        return model(views, mask, tokens.ids[codes], tokens.mask[codes]).float().cpu()


def _predictions(
    frames: ValueFrames, chosen: slice, logits: Tensor, pictures: int, seconds: float
) -> ValuePredictions:
    if not torch.isfinite(logits).all():
        raise CheckpointError("the value function gives numbers that are not finite")
    rows = frames.rows[chosen]
    return ValuePredictions(
        episode=frames.table.episode[rows],
        frame=frames.table.frame[rows],
        task=Words(frames.task.codes[chosen], frames.task.texts),
        probabilities=logits.softmax(-1).numpy(),
        value=expected_value(logits).clamp(-1.0, 0.0).numpy(),
        pictures=pictures,
        seconds=seconds,
    )


def _joined(parts: Sequence[ValuePredictions]) -> ValuePredictions:
    return ValuePredictions(
        episode=np.concatenate([part.episode for part in parts]),
        frame=np.concatenate([part.frame for part in parts]),
        task=Words(np.concatenate([part.task.codes for part in parts]), parts[0].task.texts),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        value=np.concatenate([part.value for part in parts]),
        pictures=sum(part.pictures for part in parts),
        seconds=sum(part.seconds for part in parts),
    )
