# SPDX-License-Identifier: Apache-2.0
"""A small policy whose every weight matters, and recordings to hold it against."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vla_nodes.models.checkpoint import write_checkpoint
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05 import Pi05
from vla_nodes.models.pi05_config import Pi05Config, tiny
from vla_nodes.models.robot_interface import RobotInterface
from vla_nodes.models.scaling import Scaling
from vla_training.data.schema import DatasetSchema, Outcome
from vla_training.data.writing.dataset_writer import write_dataset
from vla_training.data.writing.shards import ShardWriter
from vla_training.data.writing.video_settings import VideoSettings
from vla_training.tokens.fit_tokenizer import fit_tokenizer

FPS = 10
JOINTS = ("pan", "lift", "grip")
CAMERAS = {"front": (24, 32), "wrist": (32, 32)}  # height, width
TASKS = ("tidy up", "set the table")
SUBTASKS = ("reach", "grasp", "place")
VIDEO = VideoSettings("h264", 18, "ultrafast", 2)
CONFIG = replace(tiny(), vocabulary=600, steps=3)
LOW, HIGH = (-1.0, -0.5, 0.0), (2.0, 0.5, 0.08)


@dataclass(frozen=True, eq=False)
class Episode:
    """As it was recorded; N frames."""

    task: str
    subtasks: tuple[str, ...]
    state: np.ndarray
    action: np.ndarray


def make_model(config: Pi05Config = CONFIG, seed: int = 0) -> Pi05:
    """A pi0.5 of the smallest size, no gate of whose expert is closed."""
    torch.manual_seed(seed)
    model = Pi05(config)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
    return model.eval()


def make_episodes(lengths: tuple[int, ...] = (9, 4, 12, 6), *, subtasks: bool = True) -> list:
    """Episodes that end in the middle of chunks; their first frames have no subtask."""
    rng = np.random.default_rng(5)
    low, high = np.array(LOW), np.array(HIGH)
    episodes = []
    for number, length in enumerate(lengths):
        state, action = (
            (low + (high - low) * rng.uniform(size=(length, 3))).astype(np.float32)
            for _ in range(2)
        )
        named = [SUBTASKS[min(3 * k // length, 2)] if k else "" for k in range(length)]
        texts = tuple(named) if subtasks else ("",) * length
        episodes.append(Episode(TASKS[number % 2], texts, state, action))
    return episodes


def make_dataset(
    root: Path,
    episodes: list,
    fps: int = FPS,
    joints: tuple = JOINTS,
    cameras: dict = CAMERAS,
    failed: Collection[int] = (),
) -> Path:
    """Writes episodes as a dataset with two cameras; those that failed by their number."""
    states = tuple(f"{joint}.position" for joint in joints)
    schema = DatasetSchema("sample_arm", fps, states, joints, cameras)
    rng, shards = np.random.default_rng(6), []
    for number, episode in enumerate(episodes):
        folder = root.with_name(f"{root.name}-{number}")
        with ShardWriter(folder, schema, VIDEO, len(episode.state)) as shard:
            for k, subtask in enumerate(episode.subtasks):
                pictures = {
                    camera: np.broadcast_to(rng.integers(256, size=3, dtype=np.uint8), (*size, 3))
                    for camera, size in cameras.items()
                }
                time = 1_750_000_000_000_000_000 + k * round(1e9 / fps)
                shard.add(pictures, episode.state[k], episode.action[k], time, subtask)
            outcome = Outcome.FAILURE if number in failed else Outcome.SUCCESS
            shard.finish(episode.task, outcome, {})
        shards.append(folder)
    write_dataset(root, shards, schema, VIDEO, {})
    return root


def make_policy(folder: Path, model: Pi05, advantage: bool = False) -> Path:
    """Writes a checkpoint for the recordings' robot."""
    states = tuple(f"{joint}.position" for joint in JOINTS)
    write_checkpoint(
        folder,
        model,
        model.config,
        RobotInterface(("wrist", "front"), states, JOINTS, float(FPS), SUBTASKS, advantage),
        Normalization(
            Scaling(states, "quantile", LOW, HIGH),
            Scaling(JOINTS, "mean_std", LOW, (0.7, 0.2, 0.03)),
        ),
        fit_tokenizer(TASKS, SUBTASKS, 600),
    )
    return folder
