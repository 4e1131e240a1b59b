# SPDX-License-Identifier: Apache-2.0
"""A camera's pictures in a recording: each compared with the one before, some decoded."""

import zlib
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_nodes.contract.schema import Camera
from vla_nodes.observation.codecs import check_camera, decode_camera
from vla_nodes.observation.errors import CodecError
from vla_training.data.checks.joint_logs import Times
from vla_training.data.frames.video_packets import VIDEO_TYPES, Decoded, VideoDecoder
from vla_training.data.stamps import message_stamp

# So that large bags take minutes. Pictures of a video build on each other: its first ones.
LOOKED_AT = 300
LOOKED_AT_OF_VIDEO = 20_000


class PictureLog:
    """What is kept of a camera's pictures.

    Args:
        camera: Of the contract.
        timeline: Of the contract.
        expected: Messages in the bag, from which those to decode are spread evenly.

    Attributes:
        faults: By what was wrong: how often, and the first time of receipt.
        headless: Packets of a video before its first key frame, which show nothing.
    """

    def __init__(self, camera: Camera, timeline: str, expected: int) -> None:
        self.camera = camera
        self.faults: dict[str, tuple[int, int]] = {}
        self.headless = 0
        self._by_receipt = timeline == "receive"
        self._stride = max(1, -(-expected // LOOKED_AT))
        self._video = VideoDecoder(camera) if camera.type in VIDEO_TYPES else None
        self._received = 0
        self._stamp, self._checksum = array("q"), array("L")
        self._looked_at, self._brightness = array("q"), array("d")

    def add(self, receive: int, message: Any) -> None:
        """Takes one message in."""
        stamp = None if self._by_receipt else message_stamp(message)
        stamp = receive if stamp is None else stamp
        self._received += 1
        if self._video is None:
            self._add_image(message, stamp, receive)
        elif self._received <= LOOKED_AT_OF_VIDEO:
            for decoded in self._video.add(message, stamp, receive):
                self._add_decoded(decoded)

    def finish(self) -> None:
        """Takes in what a video's decoder holds back; no message comes any more."""
        if self._video is not None:
            for decoded in self._video.flush():
                self._add_decoded(decoded)

    def __len__(self) -> int:
        """How many messages there were."""
        return self._received

    @property
    def stamps(self) -> Times:
        """(N,) ns on the contract's timeline, of every picture; of a video those decoded."""
        return np.frombuffer(self._stamp, np.int64)

    @property
    def repeats(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a picture is byte for byte the one before."""
        checksums = np.array(self._checksum)
        return np.concatenate([[False], checksums[1:] == checksums[:-1]])[: len(checksums)]

    @property
    def looked_at(self) -> tuple[Times, npt.NDArray[np.float64]]:
        """Stamps of the pictures that were decoded, and their mean brightness."""
        return np.frombuffer(self._looked_at, np.int64), np.frombuffer(self._brightness)

    def _add_image(self, message: Any, stamp: int, receive: int) -> None:
        self._stamp.append(stamp)
        self._checksum.append(zlib.crc32(message.data))
        try:
            check_camera(self.camera, message)
            if (self._received - 1) % self._stride == 0:
                self._look(stamp, decode_camera(self.camera, message))
        except CodecError as fault:
            self._fault(str(fault), receive)

    def _add_decoded(self, decoded: Decoded) -> None:
        if decoded.image is not None:
            self._stamp.append(decoded.stamp)
            self._checksum.append(zlib.crc32(decoded.image.data))
            self._look(decoded.stamp, decoded.image.data)
        elif self._stamp:
            self._fault(decoded.error, decoded.receive)
        else:
            self.headless += 1

    def _look(self, stamp: int, pixels: npt.NDArray[Any]) -> None:
        self._looked_at.append(stamp)
        self._brightness.append(float(pixels.mean()))

    def _fault(self, text: str, receive: int) -> None:
        number, first = self.faults.get(text, (0, receive))
        self.faults[text] = (number + 1, first)
