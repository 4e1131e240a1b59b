# SPDX-License-Identifier: Apache-2.0
"""Episodes' videos one behind the other in the files of a LeRobot dataset, packet by packet."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from lerobot.datasets.utils import update_chunk_file_indices

from vla_training.data.errors import DataError

# Seconds. LeRobot compares the times of frames as float32 and within 1e-4 s; later than this,
# two neighbouring numbers are further apart, and a time that is rounded the other way is refused.
_LONGEST = 1024


class Place(NamedTuple):
    """Where an episode's video is: chunk and file of LeRobot's layout, and its first frame."""

    chunk: int
    file: int
    start: int


class VideoFiles:
    """One camera's video files, written from the first episode to the last.

    Args:
        path: From chunk and file number to the file.
        fps: Frames per second.
        chunk_files: Most files in a chunk.
        file_bytes: About how large a file may become.
    """

    def __init__(
        self, path: Callable[[int, int], Path], fps: int, chunk_files: int, file_bytes: int
    ) -> None:
        self._path = path
        self._fps = fps
        self._chunk_files = chunk_files
        self._file_bytes = file_bytes
        self._output: Any = None
        self._setup: bytes | None = None
        self._place = Place(0, 0, 0)
        self._frames = 0
        self._bytes = 0

    def append(self, video: Path, frames: int) -> Place:
        """Append an episode, beginning a new file where it does not fit into the last one.

        Args:
            video: MP4 file of ``encoder.encode_video``.
            frames: That it has.

        Raises:
            DataError: The video is damaged or has another number of frames.
            OSError: The disk is full.
        """
        size = video.stat().st_size
        with _open(video) as source:
            stream = source.streams.video[0]
            setup = stream.codec_context.extradata
            if not self._fits(frames, size, setup):
                self._begin(stream, setup)
            place = self._place._replace(start=self._frames)
            for packet in source.demux(stream):
                if packet.dts is None:  # the end
                    continue
                k = self._frames - place.start
                if packet.pts * packet.time_base * self._fps != k:
                    raise DataError(f"{video}: frame {k} is not at {k}/{self._fps} s: damaged")
                packet.stream = self._output.streams.video[0]
                packet.time_base = Fraction(1, self._fps)
                packet.pts = packet.dts = self._frames
                packet.duration = 1
                self._output.mux(packet)
                self._frames += 1
        self._bytes += size
        if self._frames - place.start != frames:
            found = self._frames - place.start
            raise DataError(f"{video}: {found} frames instead of {frames}: damaged")
        return place

    def close(self) -> None:
        """Complete the last file.

        Raises:
            OSError: The disk is full.
        """
        if self._output is not None:
            output, self._output = self._output, None
            output.close()

    def _fits(self, frames: int, size: int, setup: bytes | None) -> bool:
        return (
            self._output is not None
            and self._setup == setup
            and self._bytes + size < self._file_bytes
            and self._frames + frames <= _LONGEST * self._fps
        )

    def _begin(self, template: Any, setup: bytes | None) -> None:
        if self._output is not None:
            self.close()
            chunk, file = update_chunk_file_indices(
                self._place.chunk, self._place.file, self._chunk_files
            )
            self._place = Place(chunk, file, 0)
        path = self._path(self._place.chunk, self._place.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._output = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"})
        stream = self._output.add_stream_from_template(template, opaque=True)
        stream.time_base = Fraction(1, self._fps)
        self._setup = setup
        self._frames = self._bytes = 0


def _open(video: Path) -> Any:
    try:
        return av.open(f"file:{video}", "r")
    except av.FFmpegError as error:
        raise DataError(f"{video}: not a video ({error.strerror}): damaged") from error
