# SPDX-License-Identifier: Apache-2.0
"""Recorded frames as a trained policy is shown them, with the prompts of a robot at work."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vla_nodes.models.checkpoint import Checkpoint
from vla_nodes.models.errors import CheckpointError
from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05_batch import Pi05Batch
from vla_nodes.models.pi05_config import Pi05Config
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import UNLABELLED
from vla_training.data.loading.collation import Batch
from vla_training.data.loading.training_set import TrainingSet
from vla_training.policy_inputs.policy_batches import PolicyBatches


def open_frames(
    checkpoint: Checkpoint, dataset: Path, episodes: Sequence[int] | None, stride: int
) -> tuple[TrainingSet, Normalization]:
    """Opens a dataset for a policy.

    Args:
        checkpoint: Of the policy.
        dataset: Folder of a LeRobot v3 dataset.
        episodes: Indices; None for all.
        stride: Take every such frame of an episode only.

    Returns:
        Its frames, and the policy's normalisation with the dataset's names.

    Raises:
        DataError: It cannot be read, lacks a camera, or is of another rate or other joints.
    """
    robot = checkpoint.robot
    cameras = robot.cameras if robot else None
    frames = TrainingSet(dataset, checkpoint.config.chunk, episodes, cameras=cameras, stride=stride)
    schema = frames.schema
    if robot and robot.fps not in (None, schema.fps):
        raise DataError(
            f"{frames.root} has {schema.fps} frames per second; expected {robot.fps:g}, those of "
            f"{checkpoint.folder}"
        )
    try:
        return frames, checkpoint.normalization.named(schema.state_names, schema.action_names)
    except CheckpointError as error:
        raise DataError(f"{frames.root} does not fit {checkpoint.folder}: {error}") from None


def show(
    checkpoint: Checkpoint, batches: PolicyBatches, batch: Batch, device: torch.device | str
) -> Pi05Batch:
    """What a policy sees of recorded frames.

    Where it was trained with advantages, its actor is told that good actions are wanted.

    Args:
        checkpoint: Of the policy.
        batches: Of it, without dropout of advantages.
        batch: The frames.
        device: Of the policy.

    Raises:
        DataError: A text has more tokens than the model takes.
    """
    wanted = 1 if checkpoint.robot and checkpoint.robot.advantage else UNLABELLED
    told = replace(batch, positive=torch.full_like(batch.positive, wanted))
    # Training draws from these; nothing of it is used here.
    rngs = [np.random.default_rng(0)] * len(batch)
    return batches.make(told, rngs, device)[0]


def frame_noise(
    frames: Sequence[tuple[int, int]], samples: int, config: Pi05Config, seed: int
) -> Tensor:
    """Noise that follows from seed, episode and frame: neither batches nor stride change it.

    Args:
        frames: Episode and frame of each of B.
        samples: Of each frame, M; the first are the same whatever M is.
        config: Of the policy.
        seed: Not negative.

    Returns:
        (M, B, T, A) float32, padded as the policy's actions.
    """
    shape = (samples, config.chunk, config.max_action_dim)
    noise = [
        np.random.default_rng((seed, *frame)).standard_normal(shape, np.float32) for frame in frames
    ]
    return torch.from_numpy(np.stack(noise, axis=1))
