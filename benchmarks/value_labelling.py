# SPDX-License-Identifier: Apache-2.0
"""How fast values are predicted for a whole dataset, with the cache of features and without.

Two cameras of 96 px, two episodes, AV1 with a key frame every second picture, as ``vla-convert``
writes them; a value function of the small size with random weights, on the CPU. ``filled`` reads
features from the cache, ``filling`` makes them first. Rounds of each take turns; the median
counts. The decoding alone is timed in order, as predictions read pictures, and by seeking for
each, as training does.

Run it with ``python benchmarks/value_labelling.py``.
"""

import contextlib
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from vla_nodes.models.value_checkpoint import (
    ValueCheckpoint,
    ValueInterface,
    read_value_checkpoint,
    write_value_checkpoint,
)
from vla_nodes.models.value_config import SIZES, Arch
from vla_nodes.models.value_model import make_value_model
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.shards import ShardWriter
from vla_training.data.writing.video_settings import VideoSettings
from vla_training.evaluation.value_pictures import open_pictures, read_stretches, stretches_of
from vla_training.evaluation.value_predictions import predict_values
from vla_training.tokens.fit_tokenizer import fit_tokenizer

CAMERAS = ("front", "wrist")
SIDE = 96
EPISODES, FRAMES, FPS = 2, 120, 20
TASK = "stack the cups"
IMAGES = EPISODES * FRAMES * len(CAMERAS)
ROUNDS = 3


def main() -> None:
    """Prints medians in images/s, and each as a multiple of the first."""
    os.environ["SVT_LOG"] = "1"  # errors only
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            root = make_dataset(folder)
        print("pictures alone, one process")
        show(measure({"by seeking": lambda: seek(root), "in order": lambda: go_on(root)}))
        for arch in ("cross-attention", "stitched"):
            checkpoint = make_checkpoint(folder / arch, arch)
            print(f"\n{arch}, small, pictures and values")
            show(measure(ways(checkpoint, root, folder / "cache")))


def make_dataset(folder: Path) -> Path:
    """A blurred noise that drifts, in place of what a camera sees."""
    schema = DatasetSchema(
        "bench", FPS, ("joint",), ("joint",), dict.fromkeys(CAMERAS, (SIDE,) * 2)
    )
    video = VideoSettings("libsvtav1", 30, 12, 2)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    scene = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)
    shards = [folder / f"shard{number}" for number in range(EPISODES)]
    for shard in shards:
        with ShardWriter(shard, schema, video, FRAMES) as writer:
            for frame in range(FRAMES):
                pictures = {
                    camera: np.roll(scene, (frame, 50 * place), (0, 1))
                    for place, camera in enumerate(CAMERAS)
                }
                joint = np.array([frame / FRAMES])
                writer.add(pictures, joint, joint, frame * 1_000_000_000 // FPS, "")
            writer.finish(TASK, Outcome.SUCCESS, {})
    write_dataset(folder / "data", shards, schema, video, {})
    return folder / "data"


def make_checkpoint(folder: Path, arch: Arch) -> ValueCheckpoint:
    """A value function that has learnt nothing."""
    config = SIZES["small"](arch)
    interface = ValueInterface(CAMERAS, float(FPS), (TASK,), 0, (0.8, 0.1, 0.1), {})
    tokenizer = fit_tokenizer([TASK], [], config.vocabulary)
    write_value_checkpoint(folder, make_value_model(config), config, interface, tokenizer)
    return read_value_checkpoint(folder)


def ways(checkpoint: ValueCheckpoint, root: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Three ways to the same values."""
    fresh = (folder / f"{checkpoint.config.arch}{number}" for number in itertools.count())
    full = folder / f"{checkpoint.config.arch}-full"

    def predict(cache: Path | None) -> None:
        predict_values(checkpoint, root, range(EPISODES), cache=cache, device="cpu", workers=1)

    with contextlib.redirect_stderr(io.StringIO()):
        predict(full)
    return {
        "without a cache": lambda: predict(None),
        "with a cache, filling": lambda: predict(next(fresh)),
        "with a cache, filled": lambda: predict(full),
    }


def seek(root: Path) -> None:
    """Every picture, as training reads it."""
    for _ in frames_of(root):
        pass


def frames_of(root: Path) -> Iterator[object]:
    """The items of a training set."""
    items = TrainingSet(root, 1)
    return (items[row] for row in range(len(items)))


def go_on(root: Path) -> None:
    """Every picture, as predictions read it."""
    items = TrainingSet(root, 1)
    rows = np.arange(len(items))
    stretches = [part for name in CAMERAS for part in stretches_of(items.table, name, rows, 32)]
    for _ in read_stretches(open_pictures(root, CAMERAS), items.table, stretches, 0):
        pass


def measure(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Images a second by way."""
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            with contextlib.redirect_stderr(io.StringIO()):
                begin = time.perf_counter()
                way()
                rounds[name].append(IMAGES / (time.perf_counter() - begin))
    return {name: statistics.median(figures) for name, figures in rounds.items()}


def show(figures: dict[str, float]) -> None:
    """A line for each way."""
    base = next(iter(figures.values()))
    for name, figure in figures.items():
        print(f"  {name:24}{figure:10.0f} images/s ({figure / base:.2f})")


if __name__ == "__main__":
    main()
