# SPDX-License-Identifier: Apache-2.0
"""Single pictures out of video files, in any order.

LeRobot opens a file anew for each picture and decodes from the key frame before it with every
core. Here files stay open and each is decoded by one thread: a loader's workers are what runs
in parallel.
"""

import os
from collections import OrderedDict
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from vla_training.data.errors import DataError


class VideoReader:
    """Reads pictures, and keeps the files open that were used last.

    Not for several threads at a time. After a fork the child opens files of its own, because
    an open file's position is shared with the parent.

    Args:
        tolerance: Seconds that a picture's time may differ from the one asked for.
        capacity: Files that are kept open.
    """

    def __init__(self, tolerance: float, capacity: int) -> None:
        self._tolerance = tolerance
        self._capacity = capacity
        self._forget()

    def __reduce__(self) -> tuple[type["VideoReader"], tuple[float, int]]:
        return VideoReader, (self._tolerance, self._capacity)

    def read(self, path: Path, time: float) -> npt.NDArray[np.uint8]:
        """Reads the picture at a time of a video.

        Args:
            path: Of the video.
            time: Seconds from its beginning.

        Returns:
            (H, W, 3), RGB.

        Raises:
            DataError: It cannot be read, or has no picture at that time.
        """
        try:
            frame = self._decode(self._opened(path), time)
        except (av.FFmpegError, OSError, IndexError) as error:
            raise DataError(f"{path} cannot be read at {time:.3f} s: {error}") from error
        if frame is None:
            raise DataError(f"{path} has no picture within {self._tolerance:.3g} s of {time:.3f} s")
        return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)

    def _decode(self, container: InputContainer, time: float) -> av.VideoFrame | None:
        stream = container.streams.video[0]
        assert stream.time_base is not None  # every stream of an MP4 file has one
        first = (time - self._tolerance) / stream.time_base
        last = (time + self._tolerance) / stream.time_base
        # A key frame at the time itself counts as one before it.
        container.seek(int(last), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= first:
                return frame if frame.pts <= last else None
        return None

    def _opened(self, path: Path) -> InputContainer:
        if os.getpid() != self._process:
            self._forget()
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        container = av.open(path)
        # A decoder without threads also needs none of them to be closed after a fork.
        container.streams.video[0].codec_context.thread_count = 1
        self._open[path] = container
        if len(self._open) > self._capacity:
            self._open.popitem(last=False)[1].close()
        return container

    def _forget(self) -> None:
        self._process = os.getpid()
        self._open: OrderedDict[Path, InputContainer] = OrderedDict()
