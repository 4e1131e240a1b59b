# SPDX-License-Identifier: Apache-2.0
"""Bags of every storage with the same few messages, and what they ought to read as."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from bag_samples import EPOCH, MS, STORE, Message, image, joint_state, string
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter

from vla_training.data.bags.bag import Bag, Sample


def few_messages(count: int = 24, seed: int = 0) -> list[Message]:
    """Messages of three topics in order of receipt, each different from all others."""
    rng = np.random.default_rng(seed)
    messages = []
    for k in range(count):
        receive = EPOCH + k * 10 * MS + int(rng.integers(MS))
        if k % 3 == 0:
            value = image(receive, rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            messages.append(Message(receive, "/cam", "sensor_msgs/msg/Image", value))
        elif k % 3 == 1:
            value = joint_state(receive, ["a", "bc"], rng.normal(size=2))
            messages.append(Message(receive, "/joints", "sensor_msgs/msg/JointState", value))
        else:
            messages.append(Message(receive, "/said", "std_msgs/msg/String", string(f"text {k}")))
    return messages


def plain(items: Iterable[Message | Sample], kinds: dict[str, str] | None = None) -> list[object]:
    """Messages as (time, topic, bytes), comparable whichever typestore they came from."""
    kinds = kinds or {m.topic: m.type for m in few_messages(3)}
    return [
        (
            item.receive,
            item.topic,
            bytes(STORE.serialize_cdr(item[-1], kinds[item.topic])),
        )
        for item in items
    ]


def contents(bag: Bag, start: int | None = None, stop: int | None = None) -> list[object]:
    """All messages of a bag, comparable."""
    return plain(bag.messages(bag.topics, start, stop))


def write_mcap(
    path: Path,
    chunks: Sequence[Sequence[Message]],
    compression: str = "none",
    chunked: bool = True,
    index: bool = True,
    definitions: bool = True,
    checksums: bool = True,
) -> list[int]:
    """Writes a file with the ``mcap`` library; returns the byte at which each chunk ends."""
    ends = []
    with path.open("wb") as file:
        writer = McapWriter(
            file,
            chunk_size=1 << 40,
            compression=CompressionType[compression.upper()],
            use_chunking=chunked,
            index_types=IndexType.ALL if index else IndexType.NONE,
            use_statistics=index,
            repeat_channels=index,
            repeat_schemas=index,
            use_summary_offsets=index,
            enable_crcs=checksums,
        )
        writer.start("ros2", "test")
        channels: dict[str, int] = {}
        for chunk in chunks:
            for receive, topic, kind, value in chunk:
                if topic not in channels:
                    text = STORE.generate_msgdef(kind, ros_version=2)[0] if definitions else ""
                    schema = writer.register_schema(kind, "ros2msg", text.encode())
                    channels[topic] = writer.register_channel(topic, "cdr", schema)
                data = bytes(STORE.serialize_cdr(value, kind))
                writer.add_message(channels[topic], receive, data, receive)
            writer.flush()
            ends.append(file.tell())
        writer.finish()
    return ends


def in_rows(messages: Sequence[Message], size: int) -> list[Sequence[Message]]:
    """Messages in groups of a size."""
    return [messages[k : k + size] for k in range(0, len(messages), size)]
