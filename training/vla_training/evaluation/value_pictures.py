# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset in the order in which they were recorded, decoded on and on.

``VideoReader`` seeks for every picture, as random order wants it. Whoever wants nearly all of an
episode would decode most pictures twice that way.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import torch
from av.container import InputContainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vla_training.data.errors import DataError
from vla_training.data.labels.metadata import read_info
from vla_training.data.loading.dataset_schema import dataset_schema
from vla_training.data.loading.frame_table import FrameTable
from vla_training.data.loading.video_clips import Clip, find_clips
from vla_training.data.schema import image_key

Rows = npt.NDArray[np.int64]

_FAR = 8  # frames; beyond that seeking is faster than decoding on, with LeRobot's key frames


class Stretch(NamedTuple):
    """Pictures that are read in one go: ``rows`` of one episode, ascending."""

    camera: str
    rows: Rows


@dataclass(frozen=True, eq=False)
class PictureSource:
    """The videos of a dataset.

    Attributes:
        root: Of the dataset, absolute.
        fps: Frames per second.
        sizes: (height, width) by camera.
        clips: By camera, then by episode; of every episode of the dataset.
    """

    root: Path
    fps: int
    sizes: Mapping[str, tuple[int, int]]
    clips: Mapping[str, Mapping[int, Clip]]


def open_pictures(root: Path, cameras: Sequence[str]) -> PictureSource:
    """Finds the videos of some cameras.

    Raises:
        DataError: It is no dataset, lacks a camera, or a file is missing.
    """
    root = root.resolve()
    info = read_info(root)
    schema = dataset_schema(root, info, cameras)
    episodes = range(info["total_episodes"])
    clips = {camera: find_clips(root, info, image_key(camera), episodes) for camera in cameras}
    return PictureSource(root, schema.fps, schema.cameras, clips)


def stretches_of(table: FrameTable, camera: str, rows: Rows, most: int) -> list[Stretch]:
    """Rows, ascending, cut where an episode ends, and so that none has more than ``most``."""
    episodes = np.split(rows, np.flatnonzero(np.diff(table.episode[rows])) + 1)
    return [
        Stretch(camera, part[start : start + most])
        for part in episodes
        for start in range(0, len(part), most)
    ]


def read_stretches(
    source: PictureSource, table: FrameTable, stretches: Sequence[Stretch], workers: int
) -> Iterator[Tensor]:
    """Reads stretches in order, ahead of whoever takes them.

    Args:
        source: The videos.
        table: Whose rows the stretches name.
        stretches: What to read.
        workers: Processes that decode; 0 decodes in this one.

    Yields:
        (N, 3, H, W) uint8, the pictures of a stretch.

    Raises:
        DataError: A picture cannot be read.
    """
    loader = DataLoader(
        _Pictures(source, table, stretches),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=_start_worker,
    )
    for pictures in loader:
        if isinstance(pictures, DataError):
            raise pictures
        yield pictures


class _Pictures(Dataset[Tensor | DataError]):
    """Stretches of pictures; of each camera the file that was read last stays open."""

    def __init__(
        self, source: PictureSource, table: FrameTable, stretches: Sequence[Stretch]
    ) -> None:
        self._source = source
        self._table = table
        self._stretches = stretches
        self._open: dict[str, tuple[Path, InputContainer]] = {}

    def __len__(self) -> int:
        return len(self._stretches)

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            return self._read(*self._stretches[index])
        except DataError as error:  # raised in a worker it would come with a page of traceback
            return error

    def _read(self, camera: str, rows: Rows) -> Tensor:
        clip = self._source.clips[camera][int(self._table.episode[rows[0]])]
        times = clip.start + self._table.timestamp[rows].astype(np.float64)
        try:
            pictures = list(_decode(self._opened(camera, clip.path), times, self._source.fps))
        except (av.FFmpegError, OSError, IndexError) as error:
            raise DataError(f"{clip.path} cannot be read: {error}") from error
        if len(pictures) < len(times):
            raise DataError(f"{clip.path} has no picture at {times[len(pictures)]:.3f} s")
        height, width = self._source.sizes[camera]
        if pictures[0].shape[:2] != (height, width):
            raise DataError(
                f"{clip.path} is {pictures[0].shape[1]} x {pictures[0].shape[0]} px, "
                f"expected {width} x {height} px"
            )
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    def _opened(self, camera: str, path: Path) -> InputContainer:
        before = self._open.get(camera)
        if before and before[0] == path:
            return before[1]
        if before:
            before[1].close()
        container = av.open(path)
        container.streams.video[0].codec_context.thread_count = 1  # workers run in parallel
        self._open[camera] = (path, container)
        return container


def _decode(
    container: InputContainer, times: npt.NDArray[np.float64], fps: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """The pictures at these times, ascending; ends early where there is none at one of them."""
    stream = container.streams.video[0]
    assert stream.time_base is not None  # every stream of an MP4 file has one
    tolerance, reached = 0.25 / fps, -np.inf
    frames: Iterator[av.VideoFrame] = iter(())
    for time in times:
        if time - reached > _FAR / fps:
            seek = int((time + tolerance) / stream.time_base)
            container.seek(seek, stream=stream, backward=True)
            frames = container.decode(stream)
        for frame in frames:
            if frame.time is not None and frame.time >= time - tolerance:
                break
        else:
            return
        if frame.time > time + tolerance:
            return
        reached = frame.time
        yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _as_it_is(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    """Ctrl-C reaches the workers, too; when they end is up to the process they load for."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
