# SPDX-License-Identifier: Apache-2.0
"""What the evaluation and the plots of a value function are told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla_training.data.errors import DataError
from vla_training.options import check_least

MAX_PICTURES = 24
"""In a row; more would be too small to see anything."""


@dataclass(frozen=True)
class ValueArguments:
    """A value function against the labels of a dataset, beside two baselines that see nothing.

    Attributes:
        checkpoint: Its folder.
        dataset: Folder of a LeRobot v3 dataset that vla-label has labelled.
        episodes: split:test, split:validation or split:train, as the checkpoint's training split
            them; all; or numbers such as 0,3,7.
        stride: Take every such frame of an episode only.
        batch_size: Frames at a time.
        workers: Processes that decode videos.
        device: A GPU where there is one, if nothing is said.
        bf16: Compute in bfloat16.
        cache: Folder that keeps the features of the pictures for the next time.
        out: Folder for report.json and plots; none are written without.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    episodes: str = "split:test"
    stride: int = 1
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    bf16: bool = False
    cache: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is too small.
        """
        check_least(self, {"stride": 1, "batch_size": 1, "workers": 0})


@dataclass(frozen=True)
class ValuePlotArguments:
    """A value function over recorded episodes, as pictures and videos.

    Attributes:
        checkpoint: Its folder.
        dataset: Folder of a LeRobot v3 dataset. Where vla-label has labelled it, returns are
            drawn as well.
        out: Folder for overview.png, and a picture and a video for each episode.
        episodes: split:test, split:validation or split:train, as the checkpoint's training split
            them; all; or numbers such as 0,3,7.
        stride: Take every such frame of an episode only.
        pictures: Camera frames beneath the curve.
        camera: Of the video; the checkpoint's first where none is named.
        video: Whether to write videos.
        batch_size: Frames at a time.
        workers: Processes that decode videos.
        device: A GPU where there is one, if nothing is said.
        cache: Folder that keeps the features of the pictures for the next time.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    dataset: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    out: Path
    episodes: str = "split:test"
    stride: int = 1
    pictures: int = 9
    camera: str | None = None
    video: bool = True
    batch_size: int = 32
    workers: int = 2
    device: Literal["cpu", "cuda"] | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuses what makes no sense.

        Raises:
            DataError: A number is too small or too large.
        """
        check_least(self, {"stride": 1, "pictures": 1, "batch_size": 1, "workers": 0})
        if self.pictures > MAX_PICTURES:
            raise DataError(f"--pictures is {self.pictures}, expected at most {MAX_PICTURES}")
