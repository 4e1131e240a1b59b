# SPDX-License-Identifier: Apache-2.0
"""SQLite files of rosbag2, of every version of its tables."""

import re
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from vla_training.data.bags.errors import bag_errors, shown
from vla_training.data.bags.storage import Raw, Stream

# What a bag has no need of, and what makes a query run for ever.
_PROGRAMS = re.compile(r"\b(view|trigger|virtual|generated|as)\b", re.IGNORECASE)
_FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


class SqliteFile:
    """A ``Storage`` of one ``.db3`` file.

    Args:
        path: Of the file.

    Raises:
        BagError: It cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes = tuple(_unmerged(path))
        with bag_errors(f"{path} cannot be read, `sqlite3 {path} .recover` may save its messages"):
            # A bag is not written to, nor is a log made beside it.
            uri = f"{path.absolute().as_uri()}?immutable=1"
            self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)
            try:
                self._find_streams()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()

    def read(self, streams: Collection[int], start: int, stop: int) -> Iterator[Raw]:
        """Messages of the streams received in [start, stop), in order of receipt."""
        query = (
            "SELECT timestamp, topic_id, data FROM messages "
            f"WHERE topic_id IN ({', '.join('?' * len(streams))}) "
            "AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, rowid"
        )
        with bag_errors(f"{self.path} cannot be read on"):
            for row in self._database.execute(query, (*streams, start, stop)):
                yield Raw(*row)

    def _find_streams(self) -> None:
        query = self._database.execute
        tables = set()
        for kind, name, sql in query("SELECT type, name, sql FROM sqlite_master"):
            tables.add(name)
            if _PROGRAMS.search(f"{kind} {sql}"):
                raise ValueError(f"expected plain tables, found {sql!r}")
        definitions = {}
        if "message_definitions" in tables:
            columns = "topic_type, encoding, encoded_message_definition"
            definitions = {
                kind: MessageDefinition(_FORMATS[encoding], text)
                for kind, encoding, text in query(f"SELECT {columns} FROM message_definitions")
                if encoding in _FORMATS
            }
        found = {
            topic: numbers
            for topic, *numbers in query(
                "SELECT topic_id, count(*), min(timestamp), max(timestamp) FROM messages "
                "WHERE typeof(timestamp) = 'integer' GROUP BY topic_id"
            )
        }
        none = MessageDefinition(MessageDefinitionFormat.NONE, "")
        self.streams = []
        starts, ends = [], []
        for number, *texts in query("SELECT id, name, type, serialization_format FROM topics"):
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("a topic has no name, no type or no format")
            topic, kind, encoding = texts
            definition = definitions.get(kind, none)
            count, start, end = found.get(number, (0, 0, 0))
            self.streams.append(Stream(number, topic, kind, encoding, definition, count))
            if count:
                starts.append(start)
                ends.append(end + 1)
        self.start = min(starts, default=0)
        self.end = max(ends, default=0)


def _unmerged(path: Path) -> Iterator[str]:
    """Notes of the logs that an interrupted recording leaves beside its file."""
    for ending in ("-wal", "-journal"):
        log = path.with_name(path.name + ending)
        if log.is_file() and log.stat().st_size:
            yield (
                f"{shown(log.name)} is not read: the recording was interrupted and its last "
                f"messages may be there; open {shown(path.name)} once with sqlite3 to take them in"
            )
