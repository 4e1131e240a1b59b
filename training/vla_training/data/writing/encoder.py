# SPDX-License-Identifier: Apache-2.0
"""Pictures to video: one encoder per camera, each in a thread of its own.

Processes run over episodes, so each encoder is given a single thread of its codec; three
cameras then keep as many cores busy as there are threads. Every picture is encoded: where
the encoder is slower than its producer, the producer waits.
"""

import io
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from lerobot.configs import RGBEncoderConfig

from vla_training.data.errors import DataError
from vla_training.data.schema import DatasetSchema
from vla_training.data.writing.picture_statistics import PictureStatistics
from vla_training.data.writing.video_settings import VideoSettings

_BACKLOG = 8  # pictures per camera: 64 MiB for three cameras of 1280x720


def encoder_config(video: VideoSettings) -> RGBEncoderConfig:
    """LeRobot's own settings of the encoder.

    Raises:
        DataError: Unknown or absent codec, or a value that the codec does not take.
    """
    os.environ.setdefault("SVT_LOG", "1")  # errors only; read when an encoder starts
    # Without B-frames a packet's decoding time is its display time, so that episodes can be
    # put one behind the other however short they are.
    extra: dict[str, str | int] = {"bf": 0}
    if video.vcodec == "hevc":
        extra["x265-params"] = "pools=none:log-level=error"
    try:
        return RGBEncoderConfig(
            vcodec=video.vcodec,
            crf=video.crf,
            preset=video.preset,
            g=video.gop,
            extra_options=extra,
        )
    except ValueError as error:
        raise DataError(f"video settings: {error}") from error


def encode_video(
    pictures: Iterable[np.ndarray],
    output: str | BinaryIO,
    size: tuple[int, int],
    fps: int,
    config: RGBEncoderConfig,
) -> int:
    """Encode pictures as an MP4 whose frame k is shown at k / fps exactly.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
        output: Address or file to write to.
        size: (height, width).
        fps: Frames per second.
        config: Of the encoder.

    Returns:
        How many pictures there were.
    """
    count = 0
    with av.open(output, "w", format="mp4") as container:
        options = config.get_codec_options(encoder_threads=1, as_strings=True)
        stream = container.add_stream(config.vcodec, fps, options=options)
        stream.pix_fmt = config.pix_fmt
        stream.height, stream.width = size
        stream.time_base = tick = Fraction(1, fps)
        for count, picture in enumerate(pictures, start=1):
            # The stream converts RGB to its own format, with the colours of LeRobot's encoder.
            frame = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = count - 1
            frame.time_base = tick
            container.mux(stream.encode(frame))
        if count:
            container.mux(stream.encode(None))
    return count


def check_video(video: VideoSettings, schema: DatasetSchema) -> None:
    """Encode and decode a few pictures of every size, before hours of work rely on it.

    Raises:
        DataError: The codec does not take the settings or a camera's size.
    """
    config = encoder_config(video)
    sizes: set[tuple[int, int]] = set()
    for camera, size in schema.cameras.items():
        reason = None if size in sizes else _probe(config, size, schema.fps)
        sizes.add(size)
        if reason:
            height, width = size
            awkward = height % 2 or width % 2 or min(size) < 64
            raise DataError(
                f"camera {camera}: {config.vcodec} (preset {config.preset}) does not encode "
                f"pictures of {width}x{height}: {reason}; "
                + (
                    "give an even size of at least 64x64 by a crop or --resize WxH"
                    if awkward
                    else "give a preset that it knows, or a codec that this machine has"
                )
            )


def _probe(config: RGBEncoderConfig, size: tuple[int, int], fps: int) -> str | None:
    """Why pictures of a size cannot be encoded and read back, or None if they can."""
    file = io.BytesIO()
    pictures = [np.full((*size, 3), level, np.uint8) for level in (0, 128, 255)]
    try:
        encode_video(pictures, file, size, fps, config)
        file.seek(0)
        with av.open(file, "r") as container:
            frames = [(f.time, f.height, f.width) for f in container.decode(video=0)]
    except (av.FFmpegError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    expected = [(k / fps, *size) for k in range(len(pictures))]
    return None if frames == expected else "they come back with another size or at other times"


class CameraEncoder:
    """Encodes one camera's pictures of one episode in a thread.

    Args:
        camera: Name, for errors.
        path: MP4 file to write.
        size: (height, width) of every picture.
        fps: Frames per second.
        config: Of the encoder.
        expected_frames: About how many pictures will come.
    """

    def __init__(
        self,
        camera: str,
        path: Path,
        size: tuple[int, int],
        fps: int,
        config: RGBEncoderConfig,
        expected_frames: int,
    ) -> None:
        self._camera = camera
        self._path = path
        self._size = size
        self._fps = fps
        self._config = config
        self._statistics = PictureStatistics(expected_frames)
        self._queue: queue.Queue[np.ndarray | None] = queue.Queue(_BACKLOG)
        self._aborted = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"encode {camera}", daemon=True)
        self._thread.start()

    def add(self, picture: np.ndarray) -> None:
        """Hand over the next picture, waiting while the encoder is behind.

        Args:
            picture: (H, W, 3) uint8 RGB. It is not copied and must not change afterwards.

        Raises:
            DataError: An earlier picture could not be encoded.
        """
        self._raise_error()
        self._queue.put(picture)

    def finish(self) -> dict[str, np.ndarray]:
        """Wait until all is encoded and written.

        Returns:
            What ``PictureStatistics.result`` says.

        Raises:
            DataError: A picture could not be encoded, or the file not be written.
        """
        self._queue.put(None)
        self._thread.join()
        self._raise_error()
        return self._statistics.result()

    def abort(self) -> None:
        """Stop without finishing the file. May follow anything, ``finish`` too."""
        self._aborted = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            reason = getattr(self._error, "strerror", None) or self._error
            raise DataError(
                f"camera {self._camera}: cannot encode into {self._path}: {reason}"
            ) from self._error

    def _run(self) -> None:
        queued = self._queued()
        try:
            count = encode_video(
                self._counted(queued), f"file:{self._path}", self._size, self._fps, self._config
            )
            self._check_written(count)
        except Exception as error:
            self._error = error
        for _ in queued:  # whoever waits for room in the queue must not wait for ever
            pass

    def _queued(self) -> Iterator[np.ndarray]:
        while (picture := self._queue.get()) is not None:
            yield picture

    def _counted(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for picture in pictures:
            if self._aborted:  # by an error, since the encoder may have much to flush otherwise
                raise RuntimeError("aborted")
            self._statistics.add(picture)
            yield picture

    def _check_written(self, count: int) -> None:
        with av.open(f"file:{self._path}", "r") as container:
            written = container.streams.video[0].frames
        if written != count:
            raise OSError(f"the file holds {written} of {count} pictures")
