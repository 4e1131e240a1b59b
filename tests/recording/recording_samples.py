# SPDX-License-Identifier: Apache-2.0
"""Episodes as the tests of recording want them, and independent readers of them."""

import struct
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Channel as ChannelRecord
from mcap.records import Message as MessageRecord
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader

from vla_nodes.recording.definitions import Definitions
from vla_nodes.recording.episode_writer import EpisodeWriter, Options
from vla_nodes.recording.mcap_file import Channel
from vla_nodes.recording.report import Ending, Facts, Outcome
from vla_nodes.recording.streams import Stream
from vla_nodes.recording.writing_thread import WritingThread

STREAMS = (
    Stream("/joint_states", "sensor_msgs/msg/JointState"),
    Stream("/front/image", "sensor_msgs/msg/Image"),
    Stream("/task", "vla_interfaces/msg/Task", needed=False),
)
_DEFINITIONS = Definitions()
CHANNELS = tuple(Channel(s.topic, s.type, _DEFINITIONS.of(s.type)) for s in STREAMS)
STARTED = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
FACTS = Facts("wipe the table", "sample_arm", "1e5", "00e7", STARTED)
PLAIN = Options()
START = 1_750_000_000_000_000_000  # ns


class Written(NamedTuple):
    """One message of an episode."""

    topic: str
    stamp: int
    data: bytes


def ending(outcome: Outcome, reason: str = "") -> Ending:
    return Ending(outcome, reason, datetime(2026, 3, 4, 5, 6, 17, tzinfo=UTC))


def sample(number: int, size: int = 100) -> tuple[int, int, bytes]:
    """Channel, stamp and data of the message with this number; data begin with the number."""
    return number % 2, START + number * 10_000_000, number.to_bytes(8, "little") + bytes(size - 8)


def expected(numbers: Sequence[int], size: int = 100) -> list[Written]:
    samples = [sample(number, size) for number in numbers]
    return [Written(STREAMS[channel].topic, stamp, data) for channel, stamp, data in samples]


def writer(root: Path, options: Options = PLAIN) -> EpisodeWriter:
    return EpisodeWriter(root, STREAMS, CHANNELS, FACTS, options)


def thread(root: Path, options: Options = PLAIN, capacity: int = 1_000_000) -> WritingThread:
    return WritingThread(root, STREAMS, CHANNELS, options, capacity)


def read_with_rosbags(folder: Path) -> list[Written]:
    with Reader(folder) as bag:
        return [Written(c.topic, stamp, bytes(data)) for c, stamp, data in bag.messages()]


def read_with_mcap(file: Path) -> list[Written]:
    """By the index of a complete file."""
    with file.open("rb") as stream:
        messages = make_reader(stream, validate_crcs=True).iter_messages()
        return [Written(c.topic, m.log_time, bytes(m.data)) for _, c, m in messages]


def read_what_is_there(file: Path) -> list[Written]:
    """From the beginning of a file to wherever it breaks off."""
    topics: dict[int, str] = {}
    found = []
    with file.open("rb") as stream:
        try:
            for record in StreamReader(stream, validate_crcs=True).records:
                if isinstance(record, ChannelRecord):
                    topics[record.id] = record.topic
                if isinstance(record, MessageRecord):
                    found.append(
                        Written(topics[record.channel_id], record.log_time, bytes(record.data))
                    )
        except (EndOfFile, struct.error):
            pass
    return found


def wait(event: threading.Event) -> None:
    assert event.wait(30.0)
