# SPDX-License-Identifier: Apache-2.0
"""How many items a second training gets: three cameras, chunks of 50 actions, at random.

Compares ``TrainingSet``, with augmentation and without, with LeRobot's own dataset on the same
files, asked for the same: the pictures as uint8 and the actions through ``delta_timestamps``.
LeRobot decodes by torchcodec where that loads, otherwise by PyAV. Rounds of each take turns;
the median round counts.

Run it with ``python benchmarks/loading.py``.
"""

import contextlib
import io
import itertools
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import DataLoader

from vla_training.data.loading.augmentation import Augmentation
from vla_training.data.loading.loaders import training_loader
from vla_training.data.loading.training_set import TrainingSet
from vla_training.data.schema import DatasetSchema

CAMERAS = ("one", "two", "three")
JOINTS = tuple(f"joint{k}" for k in range(14))
FPS = 30
EPISODES, FRAMES = 2, 30
CHUNK = 50
BATCH = 4
ROUNDS = 3
SECONDS = 0.25  # per round


def main() -> None:
    """Prints medians, and each as a multiple of LeRobot's."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # fork beside threads
    av.logging.set_libav_level(av.logging.ERROR)
    os.environ["SVT_LOG"] = "1"  # errors only
    backend = video_backend()
    print(f"LeRobot decodes by {backend}; in brackets: times LeRobot's\n")
    columns = ("CPU ms per item", "items/s, 0 workers", "items/s, 2 workers")
    print(f"{'':48}" + "".join(f"{name:>22}" for name in columns))
    for codec, (width, height) in itertools.product(
        ("libsvtav1", "h264"), ((224, 224), (640, 480))
    ):
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                root = write_dataset(Path(folder) / "data", codec, width, height)
            figures = measure(root, backend)
        for name, row in figures.items():
            print(f"{codec:12}{width:>4} x{height:>4}  {name:24}", end="")
            for value, base in zip(row, figures["LeRobotDataset"], strict=True):
                print(f"{value:>14.1f} ({value / base:5.2f})", end="")
            print()


def video_backend() -> str:
    """LeRobot's default, where it works."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # no FFmpeg on this machine
        return "pyav"
    return "torchcodec"


def write_dataset(root: Path, codec: str, width: int, height: int) -> Path:
    """A blurred noise that drifts, in place of what a camera sees."""
    schema = DatasetSchema("bench", FPS, JOINTS, JOINTS, dict.fromkeys(CAMERAS, (height, width)))
    dataset = LeRobotDataset.create(
        "local/bench",
        FPS,
        schema.features,
        root=root,
        rgb_encoder=RGBEncoderConfig(vcodec=codec, crf=30 if codec == "libsvtav1" else 23),
        streaming_encoding=True,
        encoder_queue_maxsize=FRAMES,
    )
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    scene = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 8), None, 0, 255, cv2.NORM_MINMAX)
    for _, frame in itertools.product(range(EPISODES), range(FRAMES)):
        values = {
            f"observation.images.{camera}": np.roll(scene, (frame, 50 * place), (0, 1))
            for place, camera in enumerate(CAMERAS)
        }
        values |= {
            key: rng.normal(size=len(JOINTS)).astype(np.float32)
            for key in ("observation.state", "action")
        }
        time_ns = np.array([frame * 1_000_000_000 // FPS], np.int64)
        values |= {"bag_time_ns": time_ns, "subtask": "reach", "task": "stack the cups"}
        values |= {"subtask_index": np.zeros(1, np.int64), "outcome": np.ones(1, np.int64)}
        dataset.add_frame(values)
        if frame == FRAMES - 1:
            dataset.save_episode()
    dataset.finalize()
    return root


def measure(root: Path, backend: str) -> dict[str, tuple[float, ...]]:
    """CPU milliseconds of an item, and items a second without workers and with two, by way."""
    steps = {"action": [k / FPS for k in range(CHUNK)]}
    theirs = LeRobotDataset(
        "local/bench",
        root=root,
        delta_timestamps=steps,
        video_backend=backend,
        return_uint8=True,
    )
    ours = TrainingSet(root, CHUNK)
    many = 10**6
    ways: dict[str, Callable[[int], DataLoader]] = {
        "LeRobotDataset": lambda n: DataLoader(theirs, BATCH, shuffle=True, num_workers=n),
        "TrainingSet": lambda n: training_loader(ours, BATCH, many, seed=0, workers=n),
        "TrainingSet, augmented": lambda n: training_loader(
            ours, BATCH, many, seed=0, workers=n, augmentation=Augmentation()
        ),
    }
    rounds = [
        [(*time_items(way(0)), time_items(way(2))[1]) for way in ways.values()]
        for _ in range(ROUNDS)
    ]
    return {
        name: tuple(map(statistics.median, zip(*values, strict=True)))
        for name, values in zip(ways, zip(*rounds, strict=True), strict=True)
    }


def time_items(loader: DataLoader) -> tuple[float, float]:
    """This process's CPU milliseconds per item, and items a second, once at speed."""
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    start, cpu, items = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < start + SECONDS and next(batches, None) is not None:
        items += BATCH
    return 1e3 * (time.process_time() - cpu) / items, items / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
