# SPDX-License-Identifier: Apache-2.0
"""What the processes of an executor do; only they load LeRobot, with its seconds and gigabyte."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import BagError
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.conversion.report import EpisodeReport
from vla_training.data.schema import DatasetSchema
from vla_training.data.writing.video_settings import VideoSettings

PRELOAD = [
    "vla_training.data.conversion.convert_episode",
    "vla_training.data.writing.dataset_writer",
]
PROGRESS = "progress.txt"
_PERIOD = 0.5  # s


class Failed(NamedTuple):
    """An episode that its bag does not give, and why."""

    error: str


def check_settings(video: VideoSettings, schema: DatasetSchema) -> None:
    """Makes sure that the encoder takes the settings.

    Raises:
        DataError: It does not.
    """
    from vla_training.data.writing.encoder import check_video

    check_video(video, schema)


def make_shards(
    job: EpisodeJob, contract: Contract, settings: Settings, folder: Path
) -> EpisodeReport | Failed:
    """Converts an episode; ``folder/progress.txt`` says meanwhile how many frames there are."""
    from vla_training.data.conversion.convert_episode import convert_episode

    try:
        return convert_episode(job, contract, settings, folder, Note(folder / PROGRESS))
    except BagError as error:
        return Failed(str(error))


def make_dataset(
    out: Path,
    shards: Sequence[Path],
    schema: DatasetSchema,
    video: VideoSettings,
    about: Mapping[str, Any],
    progress: Path,
) -> None:
    """``write_dataset``; a file says meanwhile how many episodes there are."""
    from vla_training.data.writing.dataset_writer import write_dataset

    write_dataset(out, shards, schema, video, about, Note(progress))


class Note:
    """Notes a growing number in a file, now and then, for another process to see.

    Args:
        file: To write.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._next = 0.0

    def __call__(self, number: int) -> None:
        """Notes it, or not if it did a moment ago."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PERIOD
            # Over what it said before: cutting a file short makes ext4 flush it, for half a second.
            with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o666), "w") as file:
                file.write(f"{number:<12}")


def noted(file: Path) -> int:
    """The number in a file that ``Note`` writes."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not begun, or just being written
        return 0
