# SPDX-License-Identifier: Apache-2.0
"""Sizes of JPEG and PNG pictures, read without decoding them.

The size bounds what decoding will cost, and following a picture's structure to its end
shows that no part of it is missing.

Sources: ITU-T T.81 annex B (JPEG markers), W3C PNG Specification (third edition) section 5.
"""

import re
import struct
from typing import Any, Literal, NamedTuple

from vla_nodes.observation.errors import CodecError

MAX_PIXELS = 7680 * 4320  # 8K; 100 MB as RGB

_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
# Inside a scan, 0xff followed by 0x00 is data and by 0xd0..0xd7 a restart.
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_JPEG_SIGNATURE = b"\xff\xd8"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.Struct(">8s4x4sIIBB")  # signature, (length), IHDR, width, height, bits, colour


class Header(NamedTuple):
    """What a compressed picture says about itself; ``depth16`` for grey of 16 bits."""

    format: Literal["jpeg", "png"]
    width: int
    height: int
    depth16: bool = False


def read_header(data: Any) -> Header:
    """Reads the size of a picture and makes sure that it has an end.

    Args:
        data: Bytes-like.

    Raises:
        CodecError: Neither JPEG nor PNG, cut short, empty, or over ``MAX_PIXELS``.
    """
    view = memoryview(data).cast("B")
    if view[:2] == _JPEG_SIGNATURE:
        header = _read_jpeg(view)
    elif view[:8] == _PNG_SIGNATURE:
        header = _read_png(view)
    else:
        start = bytes(view[:8]).hex(" ") or "nothing"
        raise CodecError(f"compressed data begins with {start}, expected a JPEG or PNG signature")
    if not 0 < header.width * header.height <= MAX_PIXELS:
        raise CodecError(
            f"{header.format} declares {header.width} x {header.height} px, "
            f"expected between 1 and {MAX_PIXELS} px"
        )
    return header


def _read_jpeg(view: memoryview) -> Header:
    """Follows the markers to the end-of-image, through every scan."""
    header = None
    position = 2
    while marker := _MARKER.match(view, position):
        position = marker.end()
        code = marker[1][0]
        if code == _END_OF_IMAGE:
            if header is None:
                raise CodecError("jpeg has no frame header before its end")
            return header
        segment = view[position : position + int.from_bytes(view[position : position + 2])]
        position += max(len(segment), 2)
        if code in _START_OF_FRAME:
            height, width = (int.from_bytes(segment[i : i + 2]) for i in (3, 5))
            header = Header("jpeg", width, height)
        elif code == _START_OF_SCAN and (end := _SCAN_END.search(view, position)):
            position = end.start()
    raise CodecError(f"jpeg is cut short: no marker at byte {position} of {len(view)}")


def _read_png(view: memoryview) -> Header:
    if len(view) < _PNG_HEADER.size or bytes(view[-8:-4]) != b"IEND":
        raise CodecError(f"png is cut short: its {len(view)} bytes do not end in IEND")
    _, kind, width, height, bits, colour = _PNG_HEADER.unpack_from(view)
    if kind != b"IHDR":
        raise CodecError(f"png begins with chunk {kind!r}, expected b'IHDR'")
    return Header("png", width, height, depth16=bits == 16 and colour == 0)
