# SPDX-License-Identifier: Apache-2.0
"""Chunks and records of MCAP, in place and with bounds."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap.opcode import Opcode

from vla_training.data.bags.errors import shown
from vla_training.data.bags.storage import SIZE_LIMIT

FRAME = struct.Struct("<BQ")  # opcode and length, before each record
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, time of receipt, time of publishing
_CHUNK = struct.Struct("<QQQII")  # first and last time, size, checksum, length of a name
_TIME_LIMIT = 1 << 63  # ns; beyond what any clock of ROS can say

COMPRESSIONS = ("", "zstd", "lz4")
ZSTD = zstandard.MAGIC_NUMBER.to_bytes(4, "little")  # what a frame begins with


class ChunkError(Exception):
    """A chunk, or a message, that is damaged or larger than the bound."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A chunk, or a row of messages that are in none.

    Attributes:
        offset: In the file.
        size: In the file.
        start: Time of receipt of its first message, ns.
        end: Of its last.
        channels: Of its messages; None where the file does not say.
        chunk: Whether it is one.
    """

    offset: int
    size: int
    start: int
    end: int
    channels: frozenset[int] | None
    chunk: bool = True


def load(file: BinaryIO, segment: Segment) -> memoryview:
    """The records in a segment.

    Raises:
        ChunkError: There are none to be had.
    """
    check_size(segment.size)
    file.seek(segment.offset)
    data = memoryview(file.read(segment.size))
    if len(data) < segment.size:
        raise ChunkError("it lies beyond the end of the file")
    if not segment.chunk:
        return data
    if len(data) < FRAME.size + _CHUNK.size or data[0] != Opcode.CHUNK:
        raise ChunkError("there is no chunk in that place")
    *_, size, checksum, name = _CHUNK.unpack_from(data, FRAME.size)
    middle = FRAME.size + _CHUNK.size + name
    begin = middle + 8
    if len(data) != begin + int.from_bytes(data[middle:begin], "little"):
        raise ChunkError("its lengths contradict each other")
    compression = str(data[middle - name : middle], "utf-8", "replace")
    return _decompress(data[begin:], compression, size, checksum)


def check_size(size: int) -> None:
    """Refuses what would take too much memory.

    Raises:
        ChunkError: It would.
    """
    if size > SIZE_LIMIT:
        raise ChunkError(f"it declares {size} bytes, more than the limit of {SIZE_LIMIT}")


def _decompress(data: memoryview, compression: str, size: int, checksum: int) -> memoryview:
    """Content of a chunk; never more memory than the size that it declares."""
    check_size(size)
    if compression == "zstd":
        content: memoryview | bytes = unzstd(data, size)
    elif compression == "lz4":
        content = unlz4(data, size)
    elif compression == "":
        content = data
    else:
        raise ChunkError(f"its compression is {shown(compression)!r}, expected zstd or lz4")
    if len(content) != size:
        raise ChunkError(f"it holds {len(content)} bytes and declares {size}")
    if checksum and zlib.crc32(content) != checksum:
        raise ChunkError("its checksum differs")
    return memoryview(content)


def unzstd(data: bytes | memoryview, limit: int = SIZE_LIMIT) -> bytes:
    """Decompresses one frame of zstd.

    Args:
        data: The frame.
        limit: Most bytes of the content, and of memory.

    Raises:
        ChunkError: Damaged, or larger.
    """
    try:
        declared = zstandard.get_frame_parameters(data).content_size
        if declared != zstandard.CONTENTSIZE_UNKNOWN and declared > limit:
            raise ChunkError(f"its frame declares {declared} bytes, more than {limit}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ChunkError(f"its compression is damaged: {shown(error)}") from error


def unlz4(data: bytes | memoryview, limit: int = SIZE_LIMIT) -> bytes:
    """Decompresses one frame of LZ4; arguments and errors are as in ``unzstd``."""
    try:
        context = lz4.frame.create_decompression_context()
        content: bytes = lz4.frame.decompress_chunk(context, data, max_length=limit)[0]
    except (RuntimeError, MemoryError) as error:
        raise ChunkError(f"its compression is damaged: {shown(error)}") from error
    return content


def records(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Records in a row: opcode, and where the content begins and ends.

    Raises:
        ChunkError: The last one is not whole.
    """
    end, size = 0, len(data)
    while end < size:
        begin = end + FRAME.size
        if begin > size:
            raise ChunkError("its last record is not whole")
        opcode, length = FRAME.unpack_from(data, end)
        end = begin + length
        if end > size:
            raise ChunkError("its last record is not whole")
        yield opcode, begin, end


def message_head(data: bytes | memoryview, begin: int, end: int) -> tuple[int, int]:
    """Channel and time of receipt of a message record.

    Raises:
        ChunkError: Too short for one, or with a time that cannot be.
    """
    if end - begin < MESSAGE.size:
        raise ChunkError("a message in it is shorter than its head")
    channel, _, receive, _ = MESSAGE.unpack_from(data, begin)
    if receive >= _TIME_LIMIT:
        raise ChunkError(f"a message in it was received at {receive} ns")
    return channel, receive
