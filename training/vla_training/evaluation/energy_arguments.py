# SPDX-License-Identifier: Apache-2.0
"""What the evaluation of energy models is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_training.data.errors import DataError

MAX_CHECKPOINTS = 8
"""Side by side; more would fit neither a terminal nor a page."""


@dataclass(frozen=True)
class EnergyArguments:
    """Whether energy models tell the expert's chunks from others, and good samples from poor ones.

    Attributes:
        checkpoints: Folders of energy models of one policy, which are set side by side.
        policy: Folder of that policy's checkpoint.
        dataset: Folders of the LeRobot v3 datasets that the models were trained on.
        part: Of their split by episode.
        stride: Take every such frame of an episode only.
        samples: Chunks that the policy draws for each frame, to choose from; 0 for none.
        layers: Whether chunks of the policy's earlier layers are among the negatives.
        far: Root mean square distance from the expert's chunk, in normalised units, from which
            on a chunk of the policy counts as a negative.
        seed: Of negatives, samples and intervals.
        contexts: Folder that keeps what the policy saw; contexts beside the first checkpoint if
            nothing is said.
        batch_size: Frames at a time.
        workers: Processes that decode videos.
        device: A GPU where there is one, if nothing is said.
        bf16: Let the policy compute in bfloat16.
        out: Folder for report.json and plots; none are written without.
    """

    checkpoints: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT [CHECKPOINT ...]")
    ]
    policy: Path
    dataset: tuple[Path, ...]
    part: Literal["test", "validation", "training"] = "test"
    stride: int = 1
    samples: int = 16
    layers: bool = False
    far: float = 0.5
    seed: int = 0
    contexts: Path | None = None
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    bf16: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is too small, or a folder is missing, or named twice.
        """
        least = {"stride": 1, "samples": 0, "seed": 0, "batch_size": 1, "workers": 0}
        for name, number in least.items():
            if getattr(self, name) < number:
                option = name.replace("_", "-")
                raise DataError(f"--{option} is {getattr(self, name)}, expected at least {number}")
        if not 0.0 < self.far < float("inf"):
            raise DataError(f"--far is {self.far}, expected a number above 0")
        if not self.dataset:
            raise DataError("--dataset names no folder, expected one at least")
        if not 1 <= len(self.checkpoints) <= MAX_CHECKPOINTS:
            raise DataError(
                f"{len(self.checkpoints)} checkpoints, expected from 1 to {MAX_CHECKPOINTS}"
            )
        folders = [folder.resolve() for folder in self.checkpoints]
        for folder in folders:
            if folders.count(folder) > 1:
                raise DataError(f"{folder} is named twice, expected every checkpoint once")
