# SPDX-License-Identifier: Apache-2.0
"""Small datasets, written by LeRobot itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from vla_training.data.schema import DatasetSchema

FPS = 10
PERIOD = 1_000_000_000 // FPS
CAMERAS = {"front": (48, 64), "wrist": (64, 64)}  # height, width
TASKS = ("stack the cups", "Tür öffnen 开门")
SUBTASKS = ("", "reach", "grâsp")
LABELS = {"return": "float32", "advantage": "float32", "positive": "int64"}


@dataclass(frozen=True)
class Sample:
    """Of a dataset; ``late`` are (episode, frame) that come three periods late."""

    lengths: Sequence[int] = (7, 3, 12, 5, 1)  # LeRobot cannot append to H.264 of one frame
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=lambda: CAMERAS)
    joints: tuple[str, ...] = ("pan", "lift", "grip")
    fps: int = FPS
    vcodec: str = "h264"
    gop: int = 2
    labels: bool = False
    late: Sequence[tuple[int, int]] = ()
    plain: bool = False  # nothing but what LeRobot itself asks for
    file_megabytes: float | None = None


def colours(episode: int, frame: int, height: int, width: int) -> np.ndarray:
    """A smooth picture that differs from those of other frames, (H, W, 3) uint8."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    phase = 0.37 * frame + 1.7 * episode
    waves = [np.sin(2 * np.pi * (0.5 * x + 0.4 * y + 0.3 * k) + phase) for k in range(3)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def make_dataset(root: Path, sample: Sample = Sample()) -> Path:
    """Writes a dataset and returns it."""
    schema = DatasetSchema("sample_arm", sample.fps, sample.joints, sample.joints, sample.cameras)
    features = schema.features
    if sample.plain:
        for name in ("bag_time_ns", "subtask", "subtask_index", "outcome"):
            del features[name]
    if sample.labels:
        features |= {n: {"dtype": d, "shape": (1,), "names": None} for n, d in LABELS.items()}
    dataset = LeRobotDataset.create(
        "local/sample",
        sample.fps,
        features,
        root=root,
        robot_type="sample_arm",
        rgb_encoder=RGBEncoderConfig(vcodec=sample.vcodec, g=sample.gop, crf=18),
        video_files_size_in_mb=sample.file_megabytes,
        video_backend="pyav",
    )
    rng = np.random.default_rng(0)
    for episode, length in enumerate(sample.lengths):
        time = 1_750_000_000  # LeRobot cannot keep larger ones of an episode of one frame
        for frame in range(length):
            time += 3 * PERIOD if (episode, frame) in sample.late else PERIOD
            values = _values(rng, episode, frame, time, length)
            values |= {
                f"observation.images.{name}": colours(episode, frame + 3 * place, *size)
                for place, (name, size) in enumerate(sample.cameras.items())
            }
            values |= {
                name: rng.normal(size=len(sample.joints)).astype(np.float32)
                for name in ("observation.state", "action")
            }
            dataset.add_frame({n: v for n, v in values.items() if n in features or n == "task"})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return root


def _values(
    rng: np.random.Generator, episode: int, frame: int, time: int, length: int
) -> dict[str, Any]:
    labelled = episode % 3 != 2
    subtask = min(2 * frame // length + episode % 2, 2)
    return {
        "task": TASKS[episode % 2],
        "bag_time_ns": np.array([time], np.int64),
        "subtask": SUBTASKS[subtask],
        "subtask_index": np.array([subtask - 1], np.int64),
        "outcome": np.array([episode % 3 - 1], np.int64),
        "return": np.array([-rng.uniform() if labelled else np.nan], np.float32),
        "advantage": np.array([rng.normal() if labelled else np.nan], np.float32),
        "positive": np.array([frame % 2 if labelled else -1], np.int64),
    }
