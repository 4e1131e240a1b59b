# SPDX-License-Identifier: Apache-2.0
"""Packets of a video to pictures with stamps."""

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from vla_nodes.contract.schema import Camera
from vla_nodes.contract.streams import COMPRESSED_VIDEO, FFMPEG_PACKET
from vla_nodes.observation.buffers import REORDER_NS
from vla_nodes.observation.headers import MAX_PIXELS
from vla_training.data.bags.errors import shown
from vla_training.data.frames.bitstream import H264Order, HevcOrder

VIDEO_TYPES = (COMPRESSED_VIDEO, FFMPEG_PACKET)

_MAX_HELD = 17  # pictures in a decoder: 16 that H.264 and H.265 let it hold back, and the latest
_PAUSE = 8  # usual steps between stamps from which on numbers of packets may have come round
_SMOOTHING = 8  # steps
_LAST = 1 << 63  # ns


@dataclass(frozen=True)
class DecodedImage:
    """A picture with the fields of ``sensor_msgs/msg/Image``; ``data`` is (step * height,)."""

    height: int
    width: int
    step: int
    data: npt.NDArray[np.uint8]
    encoding: str = "rgb8"
    is_bigendian: int = 0


class Decoded(NamedTuple):
    """What became of a packet.

    Attributes:
        stamp: Of the packet, ns.
        receive: Of the packet, ns.
        image: The picture; None where there is none to be trusted.
        error: Why; empty where there is a picture.
    """

    stamp: int
    receive: int
    image: DecodedImage | None
    error: str = ""


@dataclass
class _Waiting:
    """A packet that was not told of yet, with its picture or the error once there is one."""

    stamp: int
    receive: int
    error: str = ""
    image: DecodedImage | None = None


class VideoDecoder:
    """Decodes the packets of one camera, ``CompressedVideo`` or ``FFMPEGPacket``, in order.

    Every packet that holds a picture gives one ``Decoded``; some calls later where the decoder
    holds pictures back to put them in order. After a packet that is damaged or missing no picture
    is to be trusted until the next key frame. HEVC hides more than H.264: a packet missing among
    B frames shows only in the stamps, if many are missing, and not all damage can be told.

    Args:
        camera: With the encoding ``h264`` or ``hevc``.
    """

    def __init__(self, camera: Camera) -> None:
        self._encoding = camera.encoding
        self._size = (camera.width, camera.height)
        self._order = H264Order() if camera.encoding == "h264" else HevcOrder()
        context = av.CodecContext.create(camera.encoding, "r")
        assert isinstance(context, av.VideoCodecContext)
        self._context = context
        self._context.thread_count = 1
        # Without explode, a damaged picture is patched up and passed on.
        self._context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        self._number = 0
        self._waiting: dict[int, _Waiting] = {}  # by number of the packet
        self._distrust = "no key frame came yet"
        self._has_key = False  # since the distrust began
        self._stamps: deque[int] = deque(maxlen=_MAX_HELD)  # of the last packets
        self._overtaken = 0  # packets that came before one with an earlier stamp, at most
        self._step = 0.0  # ns from stamp to stamp, smoothed

    def add(self, message: Any, stamp: int, receive: int) -> list[Decoded]:
        """Takes a packet in; both times in ns.

        Returns:
            What was decided by it, in order of stamps.
        """
        ended = self.flush() if self._is_jump(stamp) else []
        data = bytes(message.data)
        packet = self._order.read(data)
        error = self._contradiction(message, data)
        is_pause = self._follow(stamp)
        if error:
            self._restart(error)
        elif is_pause or (packet.lost and self._has_key):
            self._restart("a packet before it is missing")
        self._has_key |= packet.key and not error
        self._number += 1
        if packet.picture or error:
            reason = "" if self._has_key else self._distrust
            self._waiting[self._number] = _Waiting(stamp, receive, reason)
        return ended + self._release(None if error else self._decode(data))

    def flush(self) -> list[Decoded]:
        """What is still held back; what comes now has nothing to do with it."""
        self._restart("no key frame came yet")
        self._stamps.clear()
        return self._release(_LAST)

    def _contradiction(self, message: Any, data: bytes) -> str:
        """What a packet has against the contract; empty where it has nothing against it."""
        if not data.startswith((b"\0\0\1", b"\0\0\0\1")):
            return f"data begins with {data[:4].hex(' ') or 'nothing'}, expected a start code"
        field = "format" if hasattr(message, "format") else "encoding"
        found = str(getattr(message, field))
        # FFMPEGPacket names the encoder, such as libx264 or hevc_nvenc, and may add formats.
        codec = found.lower().partition(";")[0]
        names = ("264", "avc") if self._encoding == "h264" else ("265", "hevc")
        if any(name in codec for name in names):
            return ""
        return f"{field} is {shown(found)!r}, expected {self._encoding!r}"

    def _is_jump(self, stamp: int) -> bool:
        return bool(self._stamps) and max(self._stamps) - stamp >= REORDER_NS

    def _follow(self, stamp: int) -> bool:
        """Learns from a stamp; True after so long a pause that losses may not show otherwise."""
        step = stamp - max(self._stamps, default=stamp)
        self._overtaken = max(self._overtaken, sum(other > stamp for other in self._stamps))
        self._stamps.append(stamp)
        is_pause = self._step > 0 and step > _PAUSE * self._step
        if step > 0 and not is_pause:
            self._step += (step - self._step) / (_SMOOTHING if self._step else 1)
        return is_pause

    def _decode(self, data: bytes) -> int | None:
        """Decodes a packet; gives the stamp up to which pictures came out in order."""
        packet = av.Packet(data)
        packet.pts = self._number
        try:
            frames = self._context.decode(packet)
        except FFmpegError as error:
            # A packet of parameters alone is kept, and called invalid all the same.
            waiting = self._waiting.get(self._number)
            if waiting is not None and not waiting.error:
                waiting.error = f"the decoder refuses it: {error.strerror}"
                self._restart(waiting.error)
            return None
        stamps = [self._settle(frame) for frame in frames]
        return max((stamp for stamp in stamps if stamp is not None), default=None)

    def _settle(self, frame: av.VideoFrame) -> int | None:
        """Puts a picture, or why it is not to be trusted, to its packet; gives its stamp."""
        if frame.key_frame:
            self._distrust, self._has_key = "", True
        waiting = self._waiting.get(frame.pts or 0)
        if waiting is None or waiting.error:
            return None
        waiting.error = self._distrust or self._misfit(frame)
        if not waiting.error:
            rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            waiting.image = DecodedImage(
                frame.height, frame.width, 3 * frame.width, rgb.reshape(-1)
            )
        return waiting.stamp

    def _misfit(self, frame: av.VideoFrame) -> str:
        found, expected = (frame.width, frame.height), self._size
        if found == expected:
            return ""
        return "{} x {} px, expected {} x {}".format(*found, *expected)

    def _restart(self, reason: str) -> None:
        """Takes out what the decoder holds back, and trusts nothing before the next key frame."""
        try:
            frames = self._context.decode(None)
        except FFmpegError:
            frames = []
        for frame in frames:
            self._settle(frame)
        for waiting in self._waiting.values():
            if waiting.image is None:
                waiting.error = waiting.error or reason
        self._context.flush_buffers()
        self._distrust, self._has_key = reason, False

    def _release(self, until: int | None) -> list[Decoded]:
        """Tells, in order of stamps, what no other packet can come before any more.

        Args:
            until: Stamp up to which that is known, ns; None where it is not.
        """
        done = []
        while self._waiting:
            number, first = min(self._waiting.items(), key=lambda item: item[1].stamp)
            is_decided = first.image is not None or first.error
            limit = self._overtaken if is_decided else _MAX_HELD
            if len(self._waiting) <= limit and (until is None or first.stamp > until):
                break
            del self._waiting[number]
            error = "" if first.image else first.error or "no picture came of it"
            done.append(Decoded(first.stamp, first.receive, first.image, error))
        return done
