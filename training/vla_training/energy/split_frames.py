# SPDX-License-Identifier: Apache-2.0
"""Frames of datasets, split by episode, for a policy to look at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla_nodes.models.energy_checkpoint import EnergyInterface
from vla_nodes.models.normalization import Normalization
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
from vla_training.energy.known_episodes import known_episodes
from vla_training.policy_inputs.policy_frames import open_frames

Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class SplitFrames:
    """Of one or more datasets; the policy has looked at none of them yet.

    Attributes:
        policy: That is to look at them.
        frames: Of each dataset.
        normalization: The policy's, with the datasets' names.
        split_seed: Of the split of each dataset by episode.
        shares: Of training, validation and test.
        episodes: By part, those of each dataset.
    """

    policy: FrozenPolicy
    frames: Sequence[TrainingSet]
    normalization: Normalization
    split_seed: int
    shares: tuple[float, float, float]
    episodes: Mapping[Part, Sequence[tuple[int, ...]]]

    @classmethod
    def open(
        cls, source: EnergySource, split_seed: int, shares: tuple[float, float, float]
    ) -> "SplitFrames":
        """Opens datasets.

        Args:
            source: Policy and datasets.
            split_seed: Of the split of each dataset by episode.
            shares: Of training, validation and test.

        Raises:
            CheckpointError: The policy cannot be used.
            DataError: A dataset cannot be read, or does not fit the policy.
        """
        policy = FrozenPolicy.open(source)
        opened = [
            open_frames(policy.checkpoint, root, None, source.stride) for root in source.dataset
        ]
        frames = [one for one, _ in opened]
        join(frames)  # refuses sets that do not fit each other
        splits = [
            split_episodes(read_info(one.root)["total_episodes"], split_seed, shares)
            for one in frames
        ]
        episodes: dict[Part, list[tuple[int, ...]]] = {
            "training": [split.train for split in splits],
            "validation": [split.validation for split in splits],
            "test": [split.test for split in splits],
        }
        return cls(policy, frames, opened[0][1], split_seed, shares, episodes)

    @property
    def interface(self) -> EnergyInterface:
        """What an energy model of these data is for; not yet which episodes it is trained on."""
        schema = self.frames[0].schema
        return EnergyInterface(
            policy=self.policy.digest,
            action_names=schema.action_names,
            fps=float(schema.fps),
            chunk=self.policy.checkpoint.config.chunk,
            split_seed=self.split_seed,
            shares=self.shares,
        )

    def known(self, parts: Collection[Part]) -> tuple[str, ...]:
        """Digests of the recordings in some parts."""
        return known_episodes(
            (one.table, ours)
            for part in parts
            for one, ours in zip(self.frames, self.episodes[part], strict=True)
        )

    def sets(self, source: EnergySource, parts: Collection[Part]) -> dict[Part, EnergySet]:
        """Parts of the data, once the policy has looked at what it had not seen yet.

        Args:
            source: Its datasets, and what is wanted of their frames.
            parts: A part without episodes is left out.

        Raises:
            CheckpointError: The policy cannot be used.
            DataError: The disk has no room; no frame is left in a part; a text has more tokens
                than the policy takes.
        """
        rows = {
            part: self._rows(part, source)
            for part in PARTS
            if part in parts and any(self.episodes[part])
        }
        contexts = [Contexts(self.policy, one, self.normalization, source) for one in self.frames]
        for number, one in enumerate(contexts):
            one.fill(self.policy, np.concatenate([ours[number] for ours in rows.values()]))
        return {
            part: EnergySet(contexts, self.episodes[part], ours, self.normalization)
            for part, ours in rows.items()
        }

    def _rows(self, part: Part, source: EnergySource) -> list[Rows]:
        """Of each dataset the rows that make items: their whole chunk was recorded."""
        rows = []
        for one, ours in zip(self.frames, self.episodes[part], strict=True):
            table, row = one.table, one.rows
            take = np.isin(table.episode[row], ours) & (table.end[row] - row >= one.chunk)
            if not source.failures:
                take &= table.labels[OUTCOME][row] != Outcome.FAILURE
            rows.append(row[take])
        if not any(map(len, rows)):
            failed = "" if source.failures else " and did not fail"
            raise DataError(
                f"no frame of the {part} episodes {sum(self.episodes[part], ())!s:.100} of "
                f"{', '.join(str(one.root) for one in self.frames):.200} has all "
                f"{self.frames[0].chunk} actions of its chunk{failed}"
            )
        return rows
