# SPDX-License-Identifier: Apache-2.0
"""One pass over a video file: when each picture is shown, and what the checks need of it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from vla_nodes.observation.headers import MAX_PIXELS
from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError

_MINIATURE = 96  # pixels a side; what noise and encoding change averages out
_ALIKE = 6  # grey levels by which encoding changes a miniature of one and the same picture


@dataclass
class VideoScan:
    """What a file holds, picture by picture in the order they are shown.

    Attributes:
        times: Of every packet, exact seconds; sorted.
        shown: Of every picture that was decoded, exact seconds.
        means: (3,) mean of each decoded picture's channels, 0 to 1.
        squares: (3,) mean square, likewise.
        changes: Of each decoded picture, grey levels by which its miniature differs from the one
            before at most; infinite at an episode's first.
        runs: Decoded pictures up to each that cannot be told apart.
        faults: What the decoder could not make out.
        size: (height, width).
    """

    times: list[Fraction] = field(default_factory=list)
    shown: list[Fraction] = field(default_factory=list)
    means: list[npt.NDArray[np.float64]] = field(default_factory=list)
    squares: list[npt.NDArray[np.float64]] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)


def scan_video(
    path: Path, begins: Collection[Fraction], progress: Callable[[int], object]
) -> VideoScan:
    """Decodes every picture of a file once, in order.

    Args:
        path: Of the file.
        begins: Times at which an episode begins, s.
        progress: Called with the number of pictures since the last call.

    Raises:
        DataError: The file cannot be opened or has no video.
    """
    scan, still = VideoScan(), _Still()
    with open_video(path) as (container, stream):
        scan.size = (stream.height, stream.width)
        try:
            for packet in container.demux(stream):
                if packet.pts is not None:
                    scan.times.append(packet.pts * stream.time_base)
                for frame in _decoded(packet, scan):
                    if frame.pts is None:
                        scan.faults.append(f"no time at picture {len(scan.shown)}")
                        continue
                    time = frame.pts * stream.time_base
                    if time in begins:
                        still = _Still()
                    _look(scan, still, frame, time)
                    progress(1)
        except av.FFmpegError as error:
            scan.faults.append(f"{shown(error)} after {len(scan.times)} pictures")
    scan.times.sort()
    return scan


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Opens a file and its one video stream, to be decoded by several threads.

    Raises:
        DataError: The file cannot be opened or has no video.
    """
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:  # the last for texts that are not UTF-8
        raise DataError(f"{path}: cannot be opened as a video: {shown(error)}") from error
    with container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:
            raise DataError(f"{path}: has no video in it that can be decoded")
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _decoded(packet: Any, scan: VideoScan) -> list[Any]:
    try:
        return packet.decode()
    except av.FFmpegError as error:
        scan.faults.append(f"{shown(error)} at picture {len(scan.times)}")
        return []


@dataclass
class _Still:
    """Follows how long pictures of an episode stay alike."""

    previous: npt.NDArray[np.int16] | None = None
    first: npt.NDArray[np.int16] | None = None
    run: int = 0

    def step(self, picture: npt.NDArray[np.uint8]) -> tuple[float, int]:
        """Change from the picture before, and length of the run."""
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        size = (_MINIATURE, _MINIATURE)
        miniature = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.int16)
        change = np.inf
        if self.previous is not None:
            change = float(np.abs(miniature - self.previous).max())
        if self.first is None or np.abs(miniature - self.first).max() > _ALIKE:
            self.first, self.run = miniature, 0
        self.previous = miniature
        self.run += 1
        return change, self.run


def _look(scan: VideoScan, still: _Still, frame: Any, time: Fraction) -> None:
    if frame.is_corrupt:
        scan.faults.append(f"damaged data at picture {len(scan.shown)}")
    picture = frame.to_ndarray(format="rgb24")
    mean, spread = (value[:, 0] / 255 for value in cv2.meanStdDev(picture))
    scan.shown.append(time)
    scan.means.append(mean)
    scan.squares.append(mean**2 + spread**2)
    change, run = still.step(picture)
    scan.changes.append(change)
    scan.runs.append(run)
