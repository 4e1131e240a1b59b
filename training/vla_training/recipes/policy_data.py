# SPDX-License-Identifier: Apache-2.0
"""The data that a policy is trained on, and what they say of the robot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

from vla_nodes.models.normalization import Normalization
from vla_nodes.models.pi05_config import Pi05Config
from vla_nodes.models.robot_interface import RobotInterface
from vla_training.data.errors import DataError
from vla_training.data.labels.frame_labels import POSITIVE, WEIGHT
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.frame_scaling import frame_scaling
from vla_training.data.loading.frame_table import FrameTable
from vla_training.data.loading.training_set import Item, TrainingSet, join
from vla_training.data.schema import SUBTASK
from vla_training.recipes.errors import TrainingError
from vla_training.recipes.policy_settings import DataSettings


@dataclass(frozen=True, eq=False)
class PolicyData:
    """Of one or more datasets of one robot.

    Attributes:
        training: Items to learn from.
        validation: Items to validate on; None for none.
        robot: What there is to see and move. Its subtasks are those of the training episodes.
        normalization: Of states and actions.
        tables: Of each dataset, all frames of its training episodes.
    """

    training: Dataset[Item]
    validation: Dataset[Item] | None
    robot: RobotInterface
    normalization: Normalization
    tables: Sequence[FrameTable]


def read_data(settings: DataSettings, config: Pi05Config, *, subtasks: bool) -> PolicyData:
    """Opens datasets.

    Args:
        settings: Which.
        config: Of the model that learns from them.
        subtasks: Whether only frames with a subtask are of use.

    Raises:
        DataError: They cannot be read, do not fit each other, or have a joint that never moves.
        TrainingError: Their states or actions do not fit the model.
    """
    training, validation, labelled = [], [], False
    for dataset in settings.dataset:
        root = dataset.resolve()
        info = read_info(root)
        if settings.weigh and WEIGHT not in info["features"]:
            raise DataError(f"{root} has no column {WEIGHT}; vla-label --beta makes it")
        split = split_episodes(info["total_episodes"], settings.split_seed, settings.shares)

        def items(episodes: Sequence[int], root: Path = root) -> TrainingSet:
            return TrainingSet(
                root,
                config.chunk,
                episodes,
                cameras=settings.cameras or None,
                stride=settings.stride,
                require=(SUBTASK,) if subtasks else (),
            )

        training.append(items(split.train))
        if split.validation:
            validation.append(items(split.validation))
        labelled |= POSITIVE in info["features"]
    joined = join(training)
    schema, tables = training[0].schema, [one.table for one in training]
    for what, names, most in (
        ("states", schema.state_names, config.max_state_dim),
        ("actions", schema.action_names, config.max_action_dim),
    ):
        if len(names) > most:
            raise TrainingError(
                f"{settings.dataset[0]} has {what} of {len(names)} elements, and the model takes "
                f"{most}; expected a larger --size"
            )
    subtasks_seen = {text for table in tables for text in table.subtask.texts} - {""}
    robot = RobotInterface(
        cameras=tuple(dict.fromkeys(name for one in training for name in one.schema.cameras)),
        state_names=schema.state_names,
        action_names=schema.action_names,
        fps=float(schema.fps),
        subtasks=tuple(sorted(subtasks_seen)),
        advantage=labelled,
    )
    return PolicyData(
        training=joined,
        validation=join(validation) if validation else None,
        robot=robot,
        normalization=frame_scaling(tables, schema, settings.normalization),
        tables=tables,
    )
