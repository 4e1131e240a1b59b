# SPDX-License-Identifier: Apache-2.0
"""What the evaluation of energy models is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_training.data.errors import DataError
from vla_training.energy.frames_arguments import FramesArguments

MAX_CHECKPOINTS = 8
"""Side by side; more would fit neither a terminal nor a page."""


@dataclass(frozen=True, kw_only=True)
class EnergyArguments(FramesArguments):
    """Whether energy models tell the expert's chunks from others, and good samples from poor ones.

    Attributes:
        checkpoints: Folders of energy models of one policy, which are set side by side.
        policy: Folder of that policy's checkpoint.
        dataset: Folders of the LeRobot v3 datasets that the models were trained on.
        part: Of their split by episode.
        samples: Chunks that the policy draws for each frame, to choose from; 0 for none.
        layers: Whether chunks of the policy's earlier layers are among the negatives.
        far: Root mean square distance from the expert's chunk, in normalised units, from which
            on a chunk of the policy counts as a negative.
        seed: Of negatives, samples and intervals.
        contexts: Folder that keeps what the policy saw; contexts beside the first checkpoint if
            nothing is said.
    """

    checkpoints: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT [CHECKPOINT ...]")
    ]
    part: Literal["test", "validation", "training"] = "test"
    samples: int = 16
    far: float = 0.5

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is too small, or a folder is missing, or named twice.
        """
        super().__post_init__()
        if not 0.0 < self.far < float("inf"):
            raise DataError(f"--far is {self.far}, expected a number above 0")
        if not 1 <= len(self.checkpoints) <= MAX_CHECKPOINTS:
            raise DataError(
                f"{len(self.checkpoints)} checkpoints, expected from 1 to {MAX_CHECKPOINTS}"
            )
        folders = [folder.resolve() for folder in self.checkpoints]
        for folder in folders:
            if folders.count(folder) > 1:
                raise DataError(f"{folder} is named twice, expected every checkpoint once")
