# SPDX-License-Identifier: Apache-2.0
"""What every training on recorded episodes is told of its data."""

from dataclasses import dataclass
from pathlib import Path

from vla_training.recipes.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class EpisodeSettings:
    """Which episodes are learnt from, and which are kept to judge what was learnt.

    Attributes:
        dataset: Folders of LeRobot v3 datasets of one robot.
        stride: Learn from every such frame of an episode only.
        split_seed: Of the split by episode into training, validation and test.
        validation: Share of the episodes that chooses the checkpoint.
        test: Share of the episodes that is kept for evaluation.
    """

    dataset: tuple[Path, ...]
    stride: int = 1
    split_seed: int = 0
    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            TrainingError: There is no dataset, or a stride of 0.
        """
        if not self.dataset:
            raise TrainingError("no dataset is given, expected --dataset FOLDER")
        if self.stride < 1:
            raise TrainingError(f"stride is {self.stride}, expected at least 1")

    def check_parts(self) -> None:
        """Refuses a split without validation or without test.

        Raises:
            TrainingError: One of the shares is none.
        """
        for name in ("validation", "test"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise TrainingError(
                    f"{name} is {getattr(self, name)}, expected a share between 0 and 1"
                )

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of training, validation and test."""
        return (1.0 - self.validation - self.test, self.validation, self.test)
