# SPDX-License-Identifier: Apache-2.0
"""Bags of ROS 1, as far as rosbags reads them: with an index."""

import bz2
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader
from rosbags.rosbag1.reader import decompressors

from vla_training.data.bags.chunks import unlz4
from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.storage import SIZE_LIMIT, Raw, Stream


class Ros1File:
    """A ``Storage`` of one ``.bag`` file of ROS 1.

    Args:
        path: Of the file.

    Raises:
        BagError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._reader = Reader(path)
        with bag_errors(f"{path} cannot be read, `rosbag reindex` may mend it"):
            self._reader.open()
        for place, chunk in self._reader.chunks.items():
            if chunk.datasize > SIZE_LIMIT:
                self._reader.close()
                raise BagError(
                    f"{shown(path, 500)}: the chunk at byte {place} has {chunk.datasize} bytes, "
                    f"more than the limit of {SIZE_LIMIT}"
                )
            bounded = _BOUNDED.get(chunk.decompressor, chunk.decompressor)
            self._reader.chunks[place] = chunk._replace(decompressor=bounded)
        self.streams = [
            Stream(c.id, c.topic, c.msgtype, "ros1", c.msgdef, c.msgcount)
            for c in self._reader.connections
        ]
        filled = any(stream.count for stream in self.streams)
        self.start = self._reader.start_time if filled else 0
        self.end = self._reader.end_time if filled else 0

    def close(self) -> None:
        """Lets go of the file."""
        self._reader.close()

    def read(self, streams: Collection[int], start: int, stop: int) -> Iterator[Raw]:
        """Messages of the streams received in [start, stop), in order of receipt."""
        chosen = [c for c in self._reader.connections if c.id in streams]
        with bag_errors(f"{self.path} cannot be read on"):
            for connection, receive, data in self._reader.messages(chosen, start, stop):
                yield Raw(receive, connection.id, data)


def _unbz2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, max_length=SIZE_LIMIT)


_BOUNDED: dict[Callable[[bytes], bytes], Callable[[bytes], bytes]] = {
    decompressors["bz2"]: _unbz2,
    decompressors["lz4"]: unlz4,
}
