# SPDX-License-Identifier: Apache-2.0
"""Frames of one episode into shards, cut where they lack something."""

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2

from vla_nodes.contract.schema import Contract
from vla_nodes.observation.codecs import Picture
from vla_training.data.bags.bag import BagError
from vla_training.data.conversion.job import EpisodeJob, Settings
from vla_training.data.conversion.texts import Texts
from vla_training.data.frames.frames import Frame, Gap
from vla_training.data.schema import DatasetSchema
from vla_training.data.writing.shards import ShardWriter

_HELD_BACK = 16  # frames of a part at most that wait until it is worth starting its encoders


class Parts:
    """Writes the parts of an episode; a context manager that leaves finished shards only.

    Args:
        job: The episode.
        contract: It was recorded by.
        settings: Of the dataset.
        folder: Where shards go, as ``part-000`` and so on.
        subtasks: By stamp.
        zero: When the bag begins, ns; errors count from there.
        expected_frames: About how many there will be.

    Attributes:
        kept: Frames of each shard.
        short: Frames of each part that was left out as too short.
    """

    def __init__(
        self,
        job: EpisodeJob,
        contract: Contract,
        settings: Settings,
        folder: Path,
        subtasks: Texts,
        zero: int,
        expected_frames: int,
    ) -> None:
        self.kept: list[int] = []
        self.short: list[int] = []
        self._gaps: dict[tuple[str, str], dict[str, Any]] = {}
        self._job = job
        self._settings = settings
        self._schema = DatasetSchema.of(contract, settings.fps, settings.resize)
        self._folder = folder
        self._subtasks = subtasks
        self._zero = zero
        self._expected = expected_frames
        self._least = max(1, math.ceil(settings.min_length * settings.fps - 1e-6))
        self._held: list[Frame] = []
        self._writer: ShardWriter | None = None
        self._frames = 0  # that it has

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.abort()

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """As in ``EpisodeReport``."""
        return list(self._gaps.values())

    def add(self, item: Frame | Gap) -> None:
        """Takes in the next time of the grid.

        Raises:
            BagError: It lacks something, which is not to be.
            DataError: The shard cannot be written.
        """
        if isinstance(item, Gap):
            self._add_gap(item)
        elif self._writer is not None:
            self._write(self._writer, item)
        else:
            self._held.append(item)
            if len(self._held) >= min(self._least, _HELD_BACK):
                self._begin()

    def end(self) -> None:
        """Ends the part that is being written.

        Raises:
            DataError: The shard cannot be written.
        """
        frames = len(self._held) + self._frames
        if self._writer is not None:
            if frames >= self._least:
                self._writer.finish(self._job.task, self._job.outcome, self._source())
                self.kept.append(frames)
            self._writer.abort()
        if 0 < frames < self._least:
            self.short.append(frames)
        self._held, self._frames, self._writer = [], 0, None

    def _add_gap(self, gap: Gap) -> None:
        count = {"stream": gap.stream, "reason": gap.reason, "frames": 0, "detail": gap.detail}
        self._gaps.setdefault((gap.stream, gap.reason), count)["frames"] += 1
        if self._settings.on_gap == "fail":
            raise BagError(
                f"{self._job.bags[0]}: {gap.stream} is {gap.reason} at "
                f"{(gap.stamp - self._zero) * 1e-9:.3f} s: {gap.detail}; convert with --on-gap cut"
            )
        # Across a jump of the clock times do not go on.
        if self._settings.on_gap == "cut" or gap.reason == "clock_jump":
            self.end()

    def _begin(self) -> None:
        folder = self._folder / f"part-{len(self.kept):03d}"
        self._writer = ShardWriter(folder, self._schema, self._settings.video, self._expected)
        frames, self._held = self._held, []
        for frame in frames:
            self._write(self._writer, frame)

    def _write(self, writer: ShardWriter, frame: Frame) -> None:
        writer.add(
            {name: self._resized(picture) for name, picture in frame.pictures.items()},
            frame.state,
            frame.action,
            frame.stamp,
            self._subtasks.at(frame.stamp),
        )
        self._frames += 1

    def _resized(self, picture: Picture) -> Picture:
        size = self._settings.resize
        if size is None or picture.shape[1::-1] == size:
            return picture
        # Averages what becomes one pixel, where fewer samples would show moire.
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)

    def _source(self) -> dict[str, Any]:
        """Where the part comes from, in words that hold on another machine too."""
        job = self._job
        return {
            "bags": ["/".join(bag.resolve().parts[-2:]) for bag in job.bags],
            "start_ns": job.start,
            "stop_ns": job.stop,
            "part": len(self.kept) + len(self.short),
        }
