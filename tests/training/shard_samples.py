# SPDX-License-Identifier: Apache-2.0
"""Episodes whose pictures tell which frame they are, and the shards of them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.shards import ShardWriter
from vla_training.data.writing.video_settings import VideoSettings

CAMERAS = {"front": (64, 96), "wrist": (48, 64)}
H264 = VideoSettings("h264", 18, "ultrafast", 2)


def schema(fps: int = 30, cameras: dict[str, tuple[int, int]] = CAMERAS) -> DatasetSchema:
    return DatasetSchema("sample_arm", fps, ("pan", "lift"), ("pan", "lift", "grip"), cameras)


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """A gradient whose colour differs clearly from that of every other of 200 numbers."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    colour = np.array([number * 37 % 200, number * 101 % 200, number % 200])
    gradient = (rows + columns) * (50 / (sum(size) - 2))
    return np.clip(colour + gradient[..., None], 0, 255).astype(np.uint8)


def noise(number: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


@dataclass(frozen=True)
class Episode:
    """What goes into a shard; numbers of its frames go on from ``first``."""

    length: int
    first: int = 0
    task: str = "take the red block"
    outcome: Outcome = Outcome.SUCCESS
    subtasks: Sequence[str] = ("",)

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.length)

    @property
    def state(self) -> np.ndarray:
        k = np.array(self.numbers)
        return np.stack([3 + 1e-3 * np.sin(k), -k / 7], axis=1)

    @property
    def action(self) -> np.ndarray:
        k = np.array(self.numbers)
        return np.stack([k * 0.1, k * 0 - 2, np.cos(k)], axis=1)

    @property
    def times(self) -> np.ndarray:
        return 1_750_000_000_000_000_000 + np.array(self.numbers) * 33_333_333

    @property
    def subtask(self) -> list[str]:
        return [self.subtasks[k % len(self.subtasks)] for k in range(self.length)]


def write_shard(
    folder: Path,
    episode: Episode,
    of: DatasetSchema | None = None,
    video: VideoSettings = H264,
    paint: Callable[[int, tuple[int, int]], np.ndarray] = picture,
) -> Path:
    of = of or schema()
    with ShardWriter(folder, of, video, episode.length) as shard:
        for k, number in enumerate(episode.numbers):
            pictures = {camera: paint(number, size) for camera, size in of.cameras.items()}
            time = int(episode.times[k])
            shard.add(pictures, episode.state[k], episode.action[k], time, episode.subtask[k])
        shard.finish(episode.task, episode.outcome, {"bag": folder.name, "start": episode.first})
    return folder


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def dataset_digest(root: Path) -> str:
    """SHA-256 over names and contents of all files of a dataset, to compare datasets by."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {path.relative_to(root)}\n".encode())
    return digest.hexdigest()
