# SPDX-License-Identifier: Apache-2.0
"""MCAP files, whole or cut at any byte."""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from mcap.opcode import Opcode
from mcap.records import Channel
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from vla_training.data.bags.chunks import (
    MESSAGE,
    ChunkError,
    Segment,
    load,
    message_head,
    records,
)
from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.mcap_index import read_index
from vla_training.data.bags.storage import SIZE_LIMIT, Raw, Stream, merge

_FORMATS = {
    "ros1msg": MessageDefinitionFormat.MSG,
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
_OPEN_LIMIT = 2 * SIZE_LIMIT  # bytes of chunks that overlap in time


class McapFile:
    """A ``Storage`` of one MCAP file.

    A file with an index is opened by it. One without, such as one cut short, is read once
    to make it: every whole chunk counts.

    Args:
        path: Of the file.

    Raises:
        BagError: Not an MCAP file, or nothing in it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open_bytes = 0
        self._lost: dict[int, str] = {}  # reasons by the place of a chunk
        with bag_errors(path):
            self._file = path.open("rb")
            try:
                self._index = read_index(self._file, path)
                self.streams = [self._stream(c) for c in self._index.channels.values()]
            except BaseException:
                self._file.close()
                raise
        segments = self._index.segments
        self.start = min((s.start for s in segments), default=0)
        self.end = max((s.end for s in segments), default=-1) + 1

    @property
    def notes(self) -> list[str]:
        """What was lost; grows while messages are read."""
        lost = [
            f"{shown(self.path.name)} is damaged: {len(self._lost)} chunks are left out, the one "
            f"at byte {place} because {reason}"
            for place, reason in list(self._lost.items())[:1]
        ]
        return self._index.notes + lost

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def read(self, streams: Collection[int], start: int, stop: int) -> Iterator[Raw]:
        """Messages of the streams received in [start, stop), in order of receipt."""
        wanted = frozenset(streams)
        chosen = [
            s
            for s in self._index.segments
            if start <= s.end and s.start < stop and (s.channels is None or s.channels & wanted)
        ]
        chosen.sort(key=lambda s: s.start)
        with bag_errors(f"{self.path} cannot be read on"):
            yield from merge((s.start, partial(self._read, s, wanted, start, stop)) for s in chosen)

    def _read(
        self, segment: Segment, wanted: frozenset[int], start: int, stop: int
    ) -> Iterator[tuple[int, Raw]]:
        """Messages of one segment, sorted; one that is damaged gives none, and a note."""
        try:
            data = load(self._file, segment)
            found = []
            for opcode, begin, end in records(data):
                if opcode == Opcode.MESSAGE:
                    channel, receive = message_head(data, begin, end)
                    if channel in wanted and start <= receive < stop:
                        found.append((receive, channel, begin + MESSAGE.size, end))
        except ChunkError as error:
            self._lost[segment.offset] = str(error)
            return
        found.sort(key=lambda entry: entry[0])
        self._open_bytes += len(data)
        try:
            if self._open_bytes > _OPEN_LIMIT:
                raise BagError(
                    f"{shown(self.path, 500)}: chunks of more than {_OPEN_LIMIT} bytes overlap in "
                    "time; sort the file by time of receipt"
                )
            for receive, channel, begin, end in found:
                view = data[begin:end]
                # What is much smaller than its chunk must not keep the chunk in memory.
                small = 16 * len(view) < len(data)
                yield receive, Raw(receive, channel, bytes(view) if small else view)
        finally:
            self._open_bytes -= len(data)

    def _stream(self, channel: Channel) -> Stream:
        schema = self._index.schemas.get(channel.schema_id)
        name, encoding, text = (
            (schema.name, schema.encoding, schema.data) if schema else ("", "", b"")
        )
        definition = MessageDefinition(
            _FORMATS.get(encoding, MessageDefinitionFormat.NONE), text.decode(errors="replace")
        )
        if encoding == "ros1msg" and "/msg/" not in name:
            name = name.replace("/", "/msg/")
        count = self._index.counts[channel.id]
        return Stream(channel.id, channel.topic, name, channel.message_encoding, definition, count)
