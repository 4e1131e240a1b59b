# SPDX-License-Identifier: Apache-2.0
"""Bags with bytes changed at random: a report or an error, and no message that was not there."""

from pathlib import Path

import numpy as np
import pytest
import zstandard
from bag_files import contents, few_messages, in_rows, plain, write_mcap
from bag_samples import write_bag
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_typestore

from vla_training.data.bags.bag import BagError, open_bag

ROUNDS = 150
STRING = "std_msgs/msg/String"
MESSAGES = few_messages(30)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes bits, bytes, lengths or whole stretches of a file."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(changed)))
        match rng.integers(6):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place] = int(rng.integers(256))
            case 2:
                changed[place : place + 8] = b"\xff" * 8
            case 3:
                changed[place : place + 8] = int(rng.integers(1 << 62)).to_bytes(8, "little")
            case 4:
                del changed[place : place + int(rng.integers(1, 50))]
            case 5:
                start = int(rng.integers(len(changed)))
                changed[place:place] = changed[start : start + int(rng.integers(1, 200))]
        if not changed:
            break
    return bytes(changed)


def sample_file(folder: Path, kind: str) -> bytes:
    path = folder / "sample.mcap"
    if kind == "db3":
        path = write_bag(folder / "s", MESSAGES, StoragePlugin.SQLITE3) / "s.db3"
    elif kind == "ros1":
        path = folder / "sample.bag"
        store = get_typestore(Stores.ROS1_NOETIC)
        with Ros1Writer(path) as writer:
            connection = writer.add_connection("/said", STRING, typestore=store)
            for message in MESSAGES:
                text = store.types[STRING](data=f"text {message.receive}")
                writer.write(connection, message.receive, store.serialize_ros1(text, STRING))
    elif kind == "file":
        write_mcap(path, in_rows(MESSAGES, 5))
        return zstandard.compress(path.read_bytes())
    elif kind == "loose":
        write_mcap(path, in_rows(MESSAGES, 5), chunked=False)
    elif kind == "bare":
        write_mcap(path, in_rows(MESSAGES, 5), index=False, checksums=False)
    else:
        write_mcap(path, in_rows(MESSAGES, 5), kind)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["none", "zstd", "lz4", "loose", "bare", "db3", "file", "ros1"])
def test_changed_bytes_give_an_error_or_a_report(tmp_path: Path, kind: str) -> None:
    data = sample_file(tmp_path, kind)
    rng = np.random.default_rng(sum(kind.encode()))
    genuine = set(plain(MESSAGES))
    checked = kind in ("none", "zstd", "lz4")  # by a checksum for each chunk
    path = tmp_path / "changed"
    for _ in range(ROUNDS):
        path.write_bytes(mutate(data, rng))
        try:
            with open_bag(path) as bag:
                kinds = {topic.name: topic.type for topic in bag.topics.values()}
                found = list(bag.messages(bag.topics))
                notes = bag.notes
        except BagError as error:
            found, kinds, notes = [], {}, (str(error),)
        assert all(note.isprintable() and len(note) < 1500 for note in notes)
        if found:
            if kind != "db3":  # which is as sorted as its index
                assert [s.receive for s in found] == sorted(s.receive for s in found)
            if checked and kinds.items() <= {m.topic: m.type for m in MESSAGES}.items():
                # A stretch that moved can begin with a message, which is outside a chunk then.
                assert set(plain(found)) <= genuine or notes


@pytest.mark.parametrize("kind", ["none", "zstd", "lz4"])
def test_a_changed_bit_costs_one_chunk_at_most(tmp_path: Path, kind: str) -> None:
    rows = in_rows(MESSAGES, 5)
    path = tmp_path / "b.mcap"
    ends = write_mcap(path, rows, kind)
    data = path.read_bytes()
    rng = np.random.default_rng(5)
    for place in rng.integers(50, ends[-1], ROUNDS):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        hit = sum(end <= place for end in ends)
        spared = [m for row in rows[:hit] + rows[hit + 1 :] for m in row]
        with open_bag(path) as bag:
            found = contents(bag)
            assert found == plain(MESSAGES) or (found == plain(spared) and bag.notes)
