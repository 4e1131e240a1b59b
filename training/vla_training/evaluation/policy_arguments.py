# SPDX-License-Identifier: Apache-2.0
"""What the evaluation of a policy is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla_training.options import check_least


@dataclass(frozen=True)
class PolicyArguments:
    """Open-loop errors of a policy: what it would do and plan in each frame of a dataset.

    Attributes:
        checkpoint: Its folder.
        dataset: Folder of a LeRobot v3 dataset.
        episodes: split:validation, split:test or split:train, as the checkpoint's training split
            them; all; or numbers such as 0,3,7.
        stride: Take every such frame of an episode only.
        samples: Chunks drawn for each frame. The policy's errors are those of the first; with
            more than one the best of them is reported as well.
        seed: Of the noise that chunks are drawn from.
        batch_size: Frames at a time.
        workers: Processes that load.
        device: A GPU where there is one, if nothing is said.
        bf16: Compute in bfloat16.
        out: Folder for report.json and plots; none are written without.
    """

    checkpoint: Path
    dataset: Path
    episodes: str = "split:validation"
    stride: int = 1
    samples: int = 1
    seed: int = 0
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    bf16: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is too small.
        """
        check_least(self, {"stride": 1, "samples": 1, "seed": 0, "batch_size": 1, "workers": 0})
