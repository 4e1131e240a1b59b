# SPDX-License-Identifier: Apache-2.0
"""What is to be converted, as it crosses from one process to another."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vla_training.data.schema import Outcome
from vla_training.data.writing.video_settings import VideoSettings

OnGap = Literal["cut", "drop", "fail"]


@dataclass(frozen=True)
class Settings:
    """What shapes a dataset beside the contract.

    Attributes:
        fps: Frames per second of the dataset; LeRobot takes whole numbers.
        video: Of the encoder.
        resize: (width, height) that every picture is scaled to, or None to leave them.
        on_gap: What becomes of an episode where a frame lacks an input: cut in two, go on
            without that frame, or refuse the episode.
        min_length: Seconds below which an episode or a part of one is left out.
        phase: Seconds from the first complete observation to the first frame. Above the jitter
            of the cameras' stamps, it keeps a picture that is a little late in its own frame.
    """

    fps: int
    video: VideoSettings = field(default_factory=VideoSettings)
    resize: tuple[int, int] | None = None
    on_gap: OnGap = "cut"
    min_length: float = 1.0
    phase: float = 0.0


@dataclass(frozen=True)
class EpisodeJob:
    """One stretch of one recording.

    Attributes:
        index: Place in the order of the dataset.
        bags: Read together, merged by time of receipt.
        start: First time of receipt that belongs to it, ns; None from the beginning.
        stop: First time of receipt that does not, ns; None to the end.
        task: In plain words.
        outcome: How it ended.
        subtask_topic: Where the recording says which subtask was worked on; None for none.
    """

    index: int
    bags: tuple[Path, ...]
    start: int | None
    stop: int | None
    task: str
    outcome: Outcome
    subtask_topic: str | None = None
