# SPDX-License-Identifier: Apache-2.0
"""One MCAP file that stays readable, whatever happens to the disk or the process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcap.data_stream import RecordBuilder
from mcap.records import DataEnd, Footer
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from vla_nodes.recording.definitions import Definition
from vla_nodes.recording.errors import RecordingError


@dataclass(frozen=True)
class Channel:
    """A topic of a bag."""

    topic: str
    type: str
    definition: Definition


class McapFile:
    """Chunks end where ``flush`` is called; whole ones survive the death of the process.

    Args:
        path: Of the file, which must not exist.
        channels: In the order of the numbers that ``add`` takes.
        compress: Compress chunks with zstd.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path, channels: Sequence[Channel], compress: bool) -> None:
        self.path = path
        self._output = _Output(path)
        self._writer = Writer(
            self._output,  # type: ignore[arg-type]
            chunk_size=1 << 62,  # no chunk ends by itself
            compression=CompressionType.ZSTD if compress else CompressionType.NONE,
        )
        try:
            self._writer.start(profile="ros2", library="vla_nodes")
        except OSError:
            self._output.close()
            path.unlink()
            raise
        self._whole = self._output.size
        schemas: dict[str, int] = {}
        for number, channel in enumerate(channels):
            if channel.type not in schemas:
                text = channel.definition.text.encode()
                schemas[channel.type] = self._writer.register_schema(channel.type, "ros2msg", text)
            about = {"offered_qos_profiles": "", "topic_type_hash": channel.definition.digest}
            schema = schemas[channel.type]
            given = self._writer.register_channel(channel.topic, "cdr", schema, about)
            assert given == number + 1

    @property
    def size(self) -> int:
        """Bytes up to the end of the last whole chunk."""
        return self._whole

    def add(self, channel: int, stamp: int, data: bytes) -> None:
        """Put a message into the chunk in progress; ``stamp`` is its time of receipt, ns."""
        self._writer.add_message(channel + 1, stamp, data, stamp)

    def flush(self) -> None:
        """End the chunk and hand it to the operating system.

        Raises:
            OSError: It does not fit; call ``finish`` next.
            RecordingError: Somebody removed the file or changed it.
        """
        self._writer.flush()
        self._output.check()
        self._whole = self._output.size

    def finish(self, metadata: dict[str, str]) -> None:
        """Write index and footer, and close; nothing is done to a file that is closed already.

        Args:
            metadata: Goes into a record of its own; none where it is empty.

        Raises:
            OSError: They do not fit. The file is closed all the same, and read without an index.
        """
        if self._output.closed:
            return
        try:
            if metadata:
                self._writer.add_metadata("episode", metadata)
            self._writer.finish()
        except OSError:
            self._output.cut(self._whole)
            ending = RecordBuilder()
            DataEnd(data_section_crc=0).write(ending)
            Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(ending)
            self._output.write(ending.end() + MCAP0_MAGIC)
            raise
        finally:
            self._output.close()


class _Output:
    """An unbuffered file that takes nothing more after an error, until the rest is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        self.size = 0
        self.broken = ""
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.broken:
            raise OSError(self.broken)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self.broken = error.strerror or str(error)
            raise
        self.size += len(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing is buffered."""

    def check(self) -> None:
        try:
            found = self._path.stat().st_size
        except OSError as error:
            raise RecordingError(f"{self._path.name}: {error.strerror}") from error
        if found != self.size:
            problem = f"{self._path.name} has {found} bytes instead of {self.size}"
            raise RecordingError(f"{problem}: somebody else changed it")

    def cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self.size, self.broken = size, ""

    def close(self) -> None:
        os.close(self._descriptor)
        self.closed = True
