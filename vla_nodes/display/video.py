# SPDX-License-Identifier: Apache-2.0
"""Frames of a live run into an H.264 file, at the times at which they were taken."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

LONGEST_PAUSE = 3600  # s; a longer one is a jump of the clock


class VideoWriter:
    """Streams frames into an MP4 file (H.264, yuv420p, one thread); a context manager.

    Each frame is shown from its own stamp, rounded to 1 / fps, until the next one's: the film
    lasts as long as the run did, pauses included. A frame whose stamp falls on the tick of the
    one before, or earlier, is skipped. The file appears under its name when the block ends well;
    an exception leaves none.

    Args:
        path: The file to write, ``.mp4``; one that is there is replaced.
        fps: Ticks per second on which frames can begin; at least the rate at which they come.

    Raises:
        OSError: On entering, if the file's folder cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if not fps > 0:
            raise ValueError(f"{path}: fps is {fps}; it must be above 0")
        self._path = path
        self._aside = path.with_name(path.name + ".part")
        self._fps = Fraction(fps).limit_denominator(1001)
        self._stream: Any = None
        self._start = 0
        self._tick = -1

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._aside.touch()  # The library would first complain about the folder at a frame.
        options = {"movflags": "+faststart"}
        self._file = av.open(str(self._aside), "w", format="mp4", options=options)
        return self

    def write(self, frame: np.ndarray, stamp: int) -> bool:
        """Append a frame.

        Args:
            frame: Picture (H, W, 3), uint8 RGB, H and W even, as large as the first.
            stamp: ROS time at which it is shown, ns.

        Returns:
            Whether it was written; False if it was skipped for its stamp.

        Raises:
            ValueError: The frame does not fit, or its stamp lies over an hour after the last.
        """
        if self._stream is None:
            self._stream = self._open_stream(frame)
            self._start = stamp
        if frame.shape != self._shape or frame.dtype != np.uint8:
            found = f"{frame.dtype} {frame.shape}"
            raise ValueError(f"{self._path}: frame is {found}; it must be uint8 {self._shape}")
        tick = round((stamp - self._start) * self._fps / 10**9)
        if tick <= self._tick:
            return False
        if tick - self._tick > LONGEST_PAUSE * self._fps + 1:
            seconds = float((tick - self._tick) / self._fps)
            raise ValueError(
                f"{self._path}: frame at {stamp} ns comes {seconds:.0f} s after the last one; "
                "all stamps must be of one clock"
            )
        self._tick = tick
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = tick, 1 / self._fps
        self._file.mux(self._stream.encode(picture))
        return True

    def _open_stream(self, frame: np.ndarray) -> Any:
        height, width = frame.shape[:2] if frame.ndim == 3 else (0, 0)
        self._shape = (height, width, 3)
        if height % 2 or width % 2 or not height or not width:
            found = f"{frame.dtype} {frame.shape}"
            raise ValueError(f"{self._path}: frame is {found}; H and W of (H, W, 3) must be even")
        if "libx264" in av.codecs_available:
            codec, options = "libx264", {"preset": "veryfast", "crf": "21"}
        else:
            codec, options = "mpeg4", {"qscale": "4"}
        stream: Any = self._file.add_stream(codec, rate=self._fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = 1 / self._fps
        stream.codec_context.thread_count = 1  # The robot's other processes need the cores.
        return stream

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._aside.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._stream is None:
            raise ValueError(f"{self._path}: no frame was written, so there is no video")
        self._file.mux(self._stream.encode())
        self._file.close()
        self._aside.replace(self._path)
