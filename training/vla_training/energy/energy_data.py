# SPDX-License-Identifier: Apache-2.0
"""The data that an energy model is trained, calibrated and judged on."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from vla_nodes.models.energy_checkpoint import EnergyCheckpoint, EnergyInterface
from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.episode_split import split_episodes
from vla_training.data.loading.training_set import TrainingSet, join
from vla_training.data.schema import OUTCOME, Outcome
from vla_training.energy.chunk_table import Rows
from vla_training.energy.contexts import Contexts
from vla_training.energy.energy_set import EnergySet
from vla_training.energy.energy_source import EnergySource
from vla_training.energy.frozen_policy import FrozenPolicy
from vla_training.recipes.policy_frames import open_frames

Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class EnergySets:
    """The parts of the data; None for one that was not wanted, or whose share is 0.

    Attributes:
        training: To learn from.
        validation: Chooses the checkpoint, and calibrates it.
        test: Judges it.
        interface: What an energy model of these data is for.
        state_dim: Width of a context, D.
        action_dim: Elements of an action, A.
    """

    training: EnergySet | None
    validation: EnergySet | None
    test: EnergySet | None
    interface: EnergyInterface
    state_dim: int
    action_dim: int


def open_energy_sets(
    source: EnergySource,
    split_seed: int,
    shares: tuple[float, float, float],
    wanted: Collection[Part] = PARTS,
) -> EnergySets:
    """Opens datasets, and has the policy look at what it has not seen yet.

    Args:
        source: Policy and datasets.
        split_seed: Of the split of each dataset by episode.
        shares: Of training, validation and test.
        wanted: Parts that are opened; the policy sees no frame of the others.

    Raises:
        CheckpointError: The policy cannot be used.
        DataError: A dataset cannot be read, or does not fit the policy; the disk has no room;
            no frame is left in a part.
        TrainingError: A text has more tokens than the policy takes.
    """
    policy = FrozenPolicy.open(source)
    opened = [open_frames(policy.checkpoint, root, None, source.stride) for root in source.dataset]
    frames, normalization = [one for one, _ in opened], opened[0][1]
    join(frames)  # refuses sets that do not fit each other
    splits = [
        split_episodes(read_info(one.root)["total_episodes"], split_seed, shares) for one in frames
    ]
    episodes = {
        "training": [split.train for split in splits],
        "validation": [split.validation for split in splits],
        "test": [split.test for split in splits],
    }
    chosen = {
        part: _rows(part, frames, episodes[part], source)
        for part in PARTS
        if part in wanted and any(episodes[part])
    }
    contexts = [Contexts(policy, one, normalization, source) for one in frames]
    for number, one in enumerate(contexts):
        one.fill(policy, np.concatenate([rows[number] for rows in chosen.values()]))
    sets = {
        part: EnergySet(contexts, episodes[part], rows, normalization)
        for part, rows in chosen.items()
    }
    schema = frames[0].schema
    interface = EnergyInterface(
        policy=policy.digest,
        action_names=schema.action_names,
        fps=float(schema.fps),
        chunk=policy.checkpoint.config.chunk,
        split_seed=split_seed,
        shares=shares,
    )
    return EnergySets(
        **{part: sets.get(part) for part in PARTS},
        interface=interface,
        state_dim=policy.checkpoint.config.language.width,
        action_dim=len(schema.action_names),
    )


def open_part(checkpoint: EnergyCheckpoint, source: EnergySource, part: Part) -> EnergySet:
    """Opens a part of the data, as the training of an energy model has split them.

    Args:
        checkpoint: Of the energy model.
        source: Policy and datasets.
        part: Whose share is not 0.

    Raises:
        CheckpointError: The policy cannot be used.
        DataError: The data cannot be used, or are not what the energy model is for.
        TrainingError: A text has more tokens than the policy takes.
    """
    told = checkpoint.interface
    sets = open_energy_sets(source, told.split_seed, told.shares, (part,))
    check_same_interface(sets.interface, "the policy with these datasets", checkpoint)
    frames: EnergySet = getattr(sets, part)
    return frames


def check_same_interface(
    interface: EnergyInterface, whose: str, checkpoint: EnergyCheckpoint
) -> None:
    """Checks that something is for what an energy model is for.

    Args:
        interface: Of that something.
        whose: What it is, in words.
        checkpoint: Of the energy model.

    Raises:
        DataError: It is not; says in what.
    """
    expected, found = asdict(checkpoint.interface), asdict(interface)
    for name, value in expected.items():
        if found[name] != value:
            raise DataError(
                f"{whose} has {name} {found[name]!s:.100}, expected {value!s:.100}, as "
                f"{checkpoint.folder} has"
            )


def _rows(
    part: Part,
    frames: list[TrainingSet],
    episodes: list[tuple[int, ...]],
    source: EnergySource,
) -> list[Rows]:
    """Of each dataset the rows that make items: their whole chunk was recorded."""
    rows = []
    for one, ours in zip(frames, episodes, strict=True):
        table, row = one.table, one.rows
        take = np.isin(table.episode[row], ours) & (table.end[row] - row >= one.chunk)
        if not source.failures:
            take &= table.labels[OUTCOME][row] != Outcome.FAILURE
        rows.append(row[take])
    if not any(map(len, rows)):
        failed = "" if source.failures else " and did not fail"
        raise DataError(
            f"no frame of the {part} episodes {sum(episodes, ())!s:.100} of "
            f"{', '.join(str(one.root) for one in frames):.200} has all {frames[0].chunk} actions "
            f"of its chunk{failed}"
        )
    return rows
