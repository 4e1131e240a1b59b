# SPDX-License-Identifier: Apache-2.0
"""What an MCAP file holds and where: from its index, or where that is missing, by reading it."""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema, Statistics

from vla_training.data.bags.chunks import (
    COMPRESSIONS,
    FRAME,
    MESSAGE,
    Segment,
    check_size,
    load,
    message_head,
    records,
)
from vla_training.data.bags.errors import BagError, shown
from vla_training.data.bags.storage import SIZE_LIMIT

MAGIC = b"\x89MCAP0\r\n"
_FOOTER = struct.Struct("<QQI")  # where the index begins, its table, its checksum
_MAX_RECORD = 16 << 20  # bytes of a schema or a channel
_BLOCK = 4 << 20  # bytes of messages outside chunks that are read at once


@dataclass
class Index:
    """What a file holds.

    Attributes:
        schemas: By their id.
        channels: By theirs.
        counts: Messages by channel.
        segments: In the order of the file.
        notes: What was lost, in words.
    """

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    segments: list[Segment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, opcode: int, content: bytes | memoryview) -> Any:
        """Parses a record that is not a message; keeps schemas and channels."""
        parser = _PARSERS.get(opcode)
        if parser is None or len(content) > _MAX_RECORD:
            return None
        record = parser(ReadDataStream(BytesIO(content)))
        if isinstance(record, Schema):
            self.schemas[record.id] = record
        elif isinstance(record, Channel):
            self.channels[record.id] = record
        return record


_PARSERS: dict[int, Callable[[ReadDataStream], Any]] = {
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK_INDEX: ChunkIndex.read,
    Opcode.STATISTICS: Statistics.read,
}


def read_index(file: BinaryIO, path: Path) -> Index:
    """Finds out what a file holds.

    Args:
        file: Open, anywhere.
        path: Of the file, to be named.

    Raises:
        BagError: Nothing in it can be read.
    """
    size = os.fstat(file.fileno()).st_size
    return _from_summary(file, size) or _scan(file, size, path)


def _from_summary(file: BinaryIO, size: int) -> Index | None:
    """The index that the file carries; None where it has none that is complete."""
    length = FRAME.size + _FOOTER.size + len(MAGIC)
    file.seek(max(size - length, 0))
    footer = file.read(length)
    if len(footer) < length or footer[0] != Opcode.FOOTER or not footer.endswith(MAGIC):
        return None
    begin, _, checksum = _FOOTER.unpack_from(footer, FRAME.size)
    summary_size = size - length - begin
    if not begin or not 0 < summary_size <= SIZE_LIMIT:
        return None
    file.seek(begin)
    summary = memoryview(file.read(summary_size))
    if checksum and zlib.crc32(footer[: FRAME.size + 16], zlib.crc32(summary)) != checksum:
        return None
    try:
        return _parse_summary(summary, begin)
    except Exception:  # whatever damage does to it, the messages are still there
        return None


def _parse_summary(summary: memoryview, begin: int) -> Index | None:
    index = Index()
    chunks: list[ChunkIndex] = []
    statistics: Statistics | None = None
    for opcode, start, end in records(summary):
        record = index.take(opcode, summary[start:end])
        if isinstance(record, ChunkIndex):
            chunks.append(record)
        elif isinstance(record, Statistics):
            statistics = record
    if statistics is None or len(chunks) != statistics.chunk_count:
        return None
    index.counts.update(statistics.channel_message_counts)
    total = index.counts.total()
    schemas = {c.schema_id for c in index.channels.values()} - {0}
    if not schemas <= index.schemas.keys() or not index.counts.keys() <= index.channels.keys():
        return None
    if total != statistics.message_count or (total and not chunks):
        return None
    if not all(_is_readable(chunk, begin) for chunk in chunks):
        return None
    index.segments += [
        Segment(
            chunk.chunk_start_offset,
            chunk.chunk_length,
            chunk.message_start_time,
            chunk.message_end_time,
            frozenset(chunk.message_index_offsets) or None,
        )
        for chunk in chunks
        if chunk.message_index_offsets or 0 < chunk.message_start_time <= chunk.message_end_time
    ]
    return index


def _is_readable(chunk: ChunkIndex, limit: int) -> bool:
    """Whether a chunk is one to expect; the reason why not is told by who reads the file."""
    end = chunk.chunk_start_offset + chunk.chunk_length
    return (
        0 < chunk.chunk_start_offset < end <= limit
        and chunk.compression in COMPRESSIONS
        and chunk.uncompressed_size <= SIZE_LIMIT
    )


def _scan(file: BinaryIO, size: int, path: Path) -> Index:
    """Reads a file from its beginning for as long as records are whole."""
    index = Index()
    lost: list[str] = []
    place, complete = len(MAGIC), False
    while place + FRAME.size <= size and not complete:
        file.seek(place)
        opcode, length = FRAME.unpack(file.read(FRAME.size))
        end = place + FRAME.size + length
        if opcode == 0 or end > size:
            break
        try:
            _scan_record(file, index, opcode, place, end)
        except Exception as error:  # whatever is wrong with it, the next one begins at its end
            lost.append(f"record at byte {place}: {shown(error) or 'damaged'}")
        complete = opcode == Opcode.DATA_END
        place = end
    total = sum(index.counts[channel] for channel in index.channels)
    if lost and not total:
        raise BagError(f"{shown(path, 500)}: nothing in it can be read; {lost[0]}")
    name = shown(path.name)
    chunks = sum(segment.chunk for segment in index.segments)
    found = f"{total} messages" + (f" in {chunks} whole chunks" if chunks else "") + " were read"
    if not complete:
        index.notes.append(f"{name} is cut short at byte {place} of {size}: {found}")
    if lost:
        index.notes.append(
            f"{name} is damaged: {found}; {len(lost)} records were not, the first is the {lost[0]}"
        )
    return index


def _scan_record(file: BinaryIO, index: Index, opcode: int, place: int, end: int) -> None:
    """Takes in one record; the file stands behind its frame."""
    size = end - place
    if opcode == Opcode.MESSAGE:
        check_size(size)
        head = file.read(min(MESSAGE.size, size - FRAME.size))
        _take_message(index, place, size, *message_head(head, 0, len(head)))
    elif opcode == Opcode.CHUNK:
        _take_chunk(index, place, size, load(file, Segment(place, size, 0, 0, None)))
    elif opcode in _PARSERS and size <= _MAX_RECORD:
        index.take(opcode, file.read(size - FRAME.size))


def _take_chunk(index: Index, place: int, size: int, data: memoryview) -> None:
    heads = []
    for opcode, begin, end in records(data):
        if opcode == Opcode.MESSAGE:
            heads.append(message_head(data, begin, end))
        else:
            index.take(opcode, data[begin:end])
    if heads:
        channels = Counter(channel for channel, _ in heads)
        first, last = min(time for _, time in heads), max(time for _, time in heads)
        index.counts += channels
        index.segments.append(Segment(place, size, first, last, frozenset(channels)))


def _take_message(index: Index, place: int, size: int, channel: int, receive: int) -> None:
    """Takes in a message that is in no chunk; neighbours become one segment."""
    segment = Segment(place, size, receive, receive, frozenset((channel,)), chunk=False)
    before = index.segments[-1] if index.segments else segment
    if not before.chunk and before.offset + before.size == place and size < _BLOCK - before.size:
        index.segments[-1] = Segment(
            before.offset,
            before.size + size,
            min(before.start, receive),
            max(before.end, receive),
            frozenset((*(before.channels or ()), channel)),
            chunk=False,
        )
    else:
        index.segments.append(segment)
    index.counts[channel] += 1
