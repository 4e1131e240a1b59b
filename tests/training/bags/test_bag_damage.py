# SPDX-License-Identifier: Apache-2.0
import os
import re
import sqlite3
import struct
import tracemalloc
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from bag_files import contents, few_messages, in_rows, plain, write_mcap
from bag_samples import EPOCH, MS, STORE, Message, joint_state, string, write_bag
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2.storage_mcap import McapReader

from vla_training.data.bags import chunks as chunk_module
from vla_training.data.bags.bag import BagError, open_bag, read_bags
from vla_training.data.bags.storage import SIZE_LIMIT

MAGIC = b"\x89MCAP0\r\n"
HEADER = MAGIC + b"\1" + struct.pack("<Q", 8) + bytes(8)


def record(opcode: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<BQ", opcode, len(content) if length is None else length) + content


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def chunk(data: bytes, size: int, compression: str = "", checksum: int = 0) -> bytes:
    head = struct.pack("<QQQI", 1, 2, size, checksum) + text(compression)
    return record(6, head + struct.pack("<Q", len(data)) + data)


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_an_mcap_cut_at_any_byte_gives_every_whole_chunk(tmp_path: Path, compression: str) -> None:
    messages = few_messages(24)
    rows = in_rows(messages, 3)
    ends = write_mcap(tmp_path / "whole.mcap", rows, compression)
    data = (tmp_path / "whole.mcap").read_bytes()
    expected = plain(messages)
    edges = {end + k for end in ends for k in (-1, 0, 1)}
    cuts = {*range(len(MAGIC), len(data), 37), *edges, len(data) - 1, len(data)}
    path = tmp_path / "cut.mcap"
    for cut in sorted(cuts):
        path.write_bytes(data[:cut])
        # A chunk ends before the index of its messages, which the writer counts to it.
        with open_bag(path) as bag:
            found = contents(bag)
            sizes = sum(topic.count for topic in bag.topics.values())
            notes = bag.notes
        count = len(found)
        assert found == expected[:count]
        assert sizes == count
        assert count % 3 == 0
        least = 3 * sum(end <= cut for end in ends)
        assert least <= count <= least + 3
        if cut < ends[-1]:
            assert len(notes) == 1
            words = f" of {cut}: {count} messages in {count // 3} whole chunks were read"
            assert notes[0].startswith("cut.mcap is cut short at byte")
            assert notes[0].endswith(words if count else f" of {cut}: 0 messages were read")
        elif cut == len(data):
            assert notes == ()


def test_an_mcap_without_chunks_cut_at_any_byte_gives_every_whole_message(tmp_path: Path) -> None:
    messages = few_messages(12)
    write_mcap(tmp_path / "whole.mcap", [messages], chunked=False)
    data = (tmp_path / "whole.mcap").read_bytes()
    expected = plain(messages)
    ends = [data.index(item[2]) + len(item[2]) for item in expected]
    path = tmp_path / "cut.mcap"
    for cut in range(len(MAGIC), len(data), 11):
        path.write_bytes(data[:cut])
        with open_bag(path) as bag:
            assert contents(bag) == expected[: sum(end <= cut for end in ends)]


def test_an_interrupted_recording_of_several_files_gives_what_is_there(tmp_path: Path) -> None:
    messages = few_messages(24)
    folder = tmp_path / "take"
    folder.mkdir()
    write_mcap(folder / "take_0.mcap", in_rows(messages[:12], 3))
    ends = write_mcap(folder / "take_1.mcap", in_rows(messages[12:], 3))
    os.truncate(folder / "take_1.mcap", ends[1] + 40)
    (folder / "take_2.mcap").touch()
    (folder / "episode.json").write_text(
        '{"task": "stack", "outcome": "unknown", "number": 3, "long": "' + "x" * 20_000 + '"}'
    )
    with open_bag(folder) as bag:
        assert contents(bag) == plain(messages[:18])
        assert bag.custom == {"task": "stack", "outcome": "unknown"}
        assert len(bag.notes) == 2
        assert re.search(r"take_2.mcap is empty", bag.notes[0])
        assert re.search(r"take_1.mcap is cut short .* 6 messages in 2 whole", bag.notes[1])


def test_a_file_of_zeros_behind_a_power_cut_is_read_up_to_them(tmp_path: Path) -> None:
    messages = few_messages(12)
    ends = write_mcap(tmp_path / "b.mcap", in_rows(messages, 3))
    data = bytearray((tmp_path / "b.mcap").read_bytes())
    data[ends[1] :] = bytes(len(data) - ends[1])
    (tmp_path / "b.mcap").write_bytes(data)
    with open_bag(tmp_path / "b.mcap") as bag:
        assert contents(bag) == plain(messages[:6])
        assert f"cut short at byte {ends[1]} of {len(data)}" in bag.notes[0]


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_a_damaged_chunk_is_left_out_and_noted(
    tmp_path: Path, compression: str, index: bool
) -> None:
    messages = few_messages(12)
    ends = write_mcap(tmp_path / "b.mcap", in_rows(messages, 3), compression, index=index)
    data = bytearray((tmp_path / "b.mcap").read_bytes())
    data[ends[0] + 200] ^= 0x10
    (tmp_path / "b.mcap").write_bytes(data)
    with open_bag(tmp_path / "b.mcap") as bag:
        assert contents(bag) == plain(messages[:3] + messages[6:])
        assert contents(bag) == plain(messages[:3] + messages[6:])
        assert len(bag.notes) == 1
        assert re.search(rf"b.mcap is damaged.* 1 .*byte {ends[0]}", bag.notes[0])


def test_a_message_that_is_cut_short_is_missing_and_noted(tmp_path: Path) -> None:
    kind = "sensor_msgs/msg/JointState"
    good = [Message(EPOCH + k, "/joints", kind, joint_state(EPOCH, ["a"], [k])) for k in range(4)]
    path = write_bag(tmp_path / "b", good, StoragePlugin.SQLITE3)
    with sqlite3.connect(path / "b.db3") as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 30) WHERE id IN (2, 3)")
    database.close()
    with open_bag(path) as bag:
        assert contents(bag) == contents(bag) == plain([good[0], good[3]])
        assert bag.topics["/joints"].count == 4
        assert len(bag.notes) == 1
        assert re.search(rf"/joints: 2 messages are left out.* at {EPOCH + 1} ns: ", bag.notes[0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\0" * 500, "is not a bag"),
        (b"rosbag2_bagfile_information:\n", "is not a bag"),
        (MAGIC[:-1], "is not a bag"),
        (b"SQLite format 3\0" + b"\0" * 84, "db3 .recover"),
        (b"SQLite format 3\0" + b"\xff" * 9000, "db3 .recover"),
        (b"#ROSBAG V2.0\n", "reindex"),
        (b"#ROSBAG V2.0\n" + b"\xff" * 5000, "reindex"),
        (HEADER + chunk(b"", 1 << 60), "declares 1152921504606846976 bytes, more than"),
        (HEADER + chunk(b"abc", 3, "bz2"), "compression is 'bz2', expected zstd or lz4"),
        (HEADER + chunk(b"abc", 3, "zstd"), "its compression is damaged"),
        (HEADER + chunk(b"abc", 4), "it holds 3 bytes and declares 4"),
        (HEADER + chunk(record(5, b"short"), 14), "shorter than its head"),
        (HEADER + chunk(record(5, b"short", 1 << 60), 14), "last record is not whole"),
    ],
)
def test_what_is_no_bag_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad\n.db3"
    path.write_bytes(content)
    with pytest.raises(BagError, match=re.escape(reason)) as caught:
        open_bag(path)
    assert "bad\\n.db3" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("opcode", [1, 3, 4, 5, 6, 7, 9, 12, 0x80, 0xFF])
def test_a_record_of_absurd_length_ends_the_file(tmp_path: Path, opcode: int) -> None:
    messages = few_messages(6)
    ends = write_mcap(tmp_path / "b.mcap", in_rows(messages, 3))
    data = (tmp_path / "b.mcap").read_bytes()[: ends[0]]
    for length in (1 << 60, (1 << 64) - 1, 4000):
        (tmp_path / "b.mcap").write_bytes(data + record(opcode, b"\0" * 100, length))
        with open_bag(tmp_path / "b.mcap") as bag:
            assert contents(bag) == plain(messages[:3])
            assert f"cut short at byte {ends[0]} of" in bag.notes[0]


@pytest.mark.parametrize("declared", [100, SIZE_LIMIT, SIZE_LIMIT + 1, 1 << 40])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_bomb_takes_no_more_memory_than_a_chunk_may(
    tmp_path: Path, declared: int, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_module, "SIZE_LIMIT", 1 << 20)
    content = bytes(64 << 20)
    pack = zstandard.compress if compression == "zstd" else lz4.frame.compress
    data = pack(content)
    assert len(data) < 1 << 20
    (tmp_path / "b.mcap").write_bytes(HEADER + chunk(data, declared, compression))
    with pytest.raises(BagError, match="nothing in it can be read"):
        open_bag(tmp_path / "b.mcap")


@pytest.mark.parametrize("kind", ["message", "chunk"])
def test_a_record_of_absurd_size_is_not_even_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_module, "SIZE_LIMIT", 1 << 20)
    size = 64 << 20
    messages = few_messages(6)
    path = tmp_path / "b.mcap"
    (end,) = write_mcap(path, [messages], chunked=kind == "chunk", index=False)
    head = struct.pack("<HIQQ", 1, 0, EPOCH, EPOCH)
    if kind == "chunk":
        head = struct.pack("<QQQI", EPOCH, EPOCH, 100, 0) + text("") + struct.pack("<Q", size - 40)
    with path.open("r+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(record(6 if kind == "chunk" else 5, head, size))
        file.truncate(end + 9 + size)
    tracemalloc.start()
    try:
        with open_bag(path) as bag:
            assert contents(bag) == plain(messages)
            assert f"the first is the record at byte {end}: it declares" in bag.notes[-1]
        assert tracemalloc.get_traced_memory()[1] < size / 8
    finally:
        tracemalloc.stop()


def test_a_compressed_message_larger_than_its_type_may_be_is_left_out(tmp_path: Path) -> None:
    good = few_messages(3)
    path = write_bag(tmp_path / "b", good, StoragePlugin.SQLITE3)
    bomb = zstandard.compress(bytes(64 << 20))
    with sqlite3.connect(path / "b.db3") as database:
        database.execute("UPDATE messages SET data = ? WHERE id = 2", (bomb,))
    database.close()
    with open_bag(path) as bag:
        assert contents(bag) == plain([good[0], good[2]])
        assert re.search(r"/joints: 1 messages are left out.* more than", bag.notes[0])


def test_decompressing_stops_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    (tmp_path / "b.db3.zstd").write_bytes(zstandard.compress(bytes(1000)))
    with pytest.raises(BagError, match="set TMPDIR"):
        open_bag(tmp_path / "b.db3.zstd")


def test_a_compressed_file_that_is_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    messages = [
        Message(EPOCH + k, "/said", "std_msgs/msg/String", string(rng.bytes(1000).hex()))
        for k in range(400)
    ]
    write_mcap(tmp_path / "b.mcap", in_rows(messages, 20))
    packed = zstandard.compress((tmp_path / "b.mcap").read_bytes())
    (tmp_path / "b.mcap.zstd").write_bytes(packed[: len(packed) * 3 // 4])
    kinds = {"/said": "std_msgs/msg/String"}
    with open_bag(tmp_path / "b.mcap.zstd") as bag:
        found = plain(bag.messages(["/said"]), kinds)
        assert found == plain(messages, kinds)[: len(found)]
        assert len(found) >= 200
        assert len(found) % 20 == 0
        assert "cut short" in bag.notes[-1]


def test_a_truncated_database_is_read_or_refused(tmp_path: Path) -> None:
    messages = few_messages(300)
    path = write_bag(tmp_path / "b", messages, StoragePlugin.SQLITE3) / "b.db3"
    data = path.read_bytes()
    expected = plain(messages)
    refused = 0
    for cut in [*range(1, len(data), 3001), *range(4096, len(data), 4096)]:
        path.write_bytes(data[:cut])
        try:
            with open_bag(path) as bag:
                assert contents(bag) == expected
        except BagError:
            refused += 1
    assert refused


def test_a_database_whose_log_was_not_merged_says_so(tmp_path: Path) -> None:
    messages = few_messages()
    path = write_bag(tmp_path / "b", messages, StoragePlugin.SQLITE3)
    (path / "b.db3-wal").write_bytes(b"something")
    with open_bag(path) as bag:
        assert contents(bag) == plain(messages)
        assert bag.notes[0].startswith("b.db3-wal is not read")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW more AS SELECT * FROM messages",
        "CREATE TRIGGER t AFTER INSERT ON messages BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
        "CREATE TABLE g(a, b GENERATED ALWAYS AS (zeroblob(1000000000)))",
        "UPDATE topics SET name = x'00'",
    ],
)
def test_a_database_that_is_a_program_is_refused(tmp_path: Path, statement: str) -> None:
    path = write_bag(tmp_path / "b", few_messages(), StoragePlugin.SQLITE3)
    with sqlite3.connect(path / "b.db3") as database:
        database.execute(statement)
    database.close()
    with pytest.raises(BagError, match="cannot be read"):
        open_bag(path)


@pytest.mark.parametrize("change", ["timestamp = 'noon'", "data = 'text'", "data = 7"])
def test_a_row_that_is_no_message_is_missing(tmp_path: Path, change: str) -> None:
    messages = few_messages()
    path = write_bag(tmp_path / "b", messages, StoragePlugin.SQLITE3)
    with sqlite3.connect(path / "b.db3") as database:
        database.execute(f"UPDATE messages SET {change} WHERE id = 5")
    database.close()
    with open_bag(path) as bag:
        assert contents(bag) == plain(messages[:4] + messages[5:])
        assert sum(t.count for t in bag.topics.values()) - len(bag.notes) == 23


def metadata(path: Path, files: str, more: str = "") -> None:
    lines = f"rosbag2_bagfile_information:\n  relative_file_paths: {files}\n  {more}\n"
    (path / "metadata.yaml").write_text(lines)


@pytest.mark.parametrize(
    "name", ["../other/other.mcap", "/etc/passwd", "a/../../other/other.mcap", "", "."]
)
def test_metadata_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    write_bag(tmp_path / "other", few_messages())
    path = write_bag(tmp_path / "b", few_messages())
    metadata(path, f"['{name}']")
    with pytest.raises(BagError) as caught:
        open_bag(path)
    assert f"'{name}'" in str(caught.value) or "is not a file" in str(caught.value)


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    metadata(path, f"[{'x' * 300}.mcap]")
    with pytest.raises(BagError, match="File name too long"):
        open_bag(path)


@pytest.mark.parametrize("link", ["b.mcap", "metadata.yaml", "episode.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, link: str) -> None:
    write_bag(tmp_path / "other", few_messages())
    outside = tmp_path / "other" / link.replace("b.mcap", "other.mcap")
    outside.touch()
    path = write_bag(tmp_path / "b", few_messages())
    (path / link).unlink(missing_ok=True)
    if link == "episode.json":  # which is read where there is no metadata
        (path / "metadata.yaml").unlink()
    (path / link).symlink_to(outside)
    with pytest.raises(BagError, match=rf"{link} leads out of the bag's folder"):
        open_bag(path)


def test_a_bag_is_read_through_a_link_to_its_folder(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    (tmp_path / "link").symlink_to(path)
    with open_bag(tmp_path / "link") as bag:
        assert contents(bag) == plain(few_messages())


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "rosbag2_bagfile_information:",
        "rosbag2_bagfile_information:\n  relative_file_",
        "rosbag2_bagfile_information: {relative_file_paths: []}",
        "rosbag2_bagfile_information: {relative_file_paths: 5}",
        "[" * 100_000,
        "a: &a [*a, *a",
        "!!python/object/apply:os.system ['false']",
        "\0",
    ],
)
def test_metadata_that_cannot_be_used_is_noted_and_the_files_are_read(
    tmp_path: Path, broken: str
) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    (path / "metadata.yaml").write_text(broken)
    with open_bag(path) as bag:
        assert contents(bag) == plain(few_messages())
        assert "metadata.yaml" in bag.notes[0]
    (path / "metadata.yaml").write_bytes(b"\xff\xfe\xfd")
    with open_bag(path) as bag:
        assert "is not UTF-8" in bag.notes[0]


def test_files_that_metadata_misses_or_leaves_out_are_noted(tmp_path: Path) -> None:
    messages = few_messages()
    path = write_bag(tmp_path / "b", messages)
    write_mcap(path / "b_7.mcap", [messages])
    metadata(path, "[b.mcap, b_1.mcap]")
    with open_bag(path) as bag:
        assert contents(bag) == plain(messages)
        assert bag.notes[0] == "b_1.mcap is missing"
        assert bag.notes[1].startswith("b_7.mcap is not read")
    metadata(path, "[c.mcap]")
    with pytest.raises(BagError, match="holds no bag"):
        open_bag(path)


def test_a_file_that_metadata_lists_twice_is_read_once(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    metadata(path, "[b.mcap, ./b.mcap]")
    with open_bag(path) as bag:
        assert contents(bag) == plain(few_messages())


def test_metadata_of_the_first_versions_names_the_folder_too(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    metadata(path, "[b/b.mcap]")
    with open_bag(path) as bag:
        assert contents(bag) == plain(few_messages())
        assert bag.notes == ()


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    metadata(path, "[b.mcap]", "compression_mode: FILE\n  compression_format: brotli")
    with pytest.raises(BagError, match="compressed with 'brotli', expected 'zstd'"):
        open_bag(path)


def test_facts_are_texts_and_bounded(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "b", few_messages())
    facts = ", ".join(f"k{k}: {k}" for k in range(300))
    metadata(path, "[b.mcap]", f"custom_data: {{list: [1, 2], long: {'x' * 20_000}, {facts}}}")
    with open_bag(path) as bag:
        assert bag.custom == {f"k{k}": str(k) for k in range(100)}
    metadata(path, "[b.mcap]", "custom_data: [no, mapping]")
    with open_bag(path) as bag:
        assert bag.custom == {}


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mcap")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="is not a file"):
        open_bag(tmp_path / "pipe.mcap")
    with pytest.raises(BagError, match="does not exist"):
        open_bag(tmp_path / "nothing.mcap")
    with pytest.raises(BagError, match="holds no bag"):
        open_bag(tmp_path / "empty")
    with pytest.raises(BagError, match="holds no bag"):
        open_bag(tmp_path)
    with pytest.raises(BagError, match="no bag was given"):
        read_bags([])


HEAD = "std_msgs/Header header\n"


@pytest.mark.parametrize(
    "definition",
    [
        "uint8[0] a\n",
        "string[100000000] a\n",
        "Inner[2000] a\n" + "=" * 80 + "\nMSG: acme/Inner\nuint8 a\n",
        "float64[1000000000] a\n",
        "Odd a\n",
        "Odd[] a\n",
        "Missing a\n",
        "uint8 class\nuint8 class\n",
        "uint8 a\n" * 200_000,
        'string X="""; import os; os.abort() #\nuint8 a',
        "\udcff",
    ],
)
def test_a_hostile_definition_is_an_error(tmp_path: Path, definition: str) -> None:
    body = definition.encode(errors="surrogateescape")
    schema = struct.pack("<H", 1) + text("acme/msg/Odd") + text("ros2msg")
    schema += struct.pack("<I", len(body)) + body
    channel = struct.pack("<HH", 1, 1) + text("/odd") + text("cdr") + struct.pack("<I", 0)
    message = struct.pack("<HIQQ", 1, 0, 5, 5) + b"\0\1\0\0\0\0\0\0"
    path = tmp_path / "b.mcap"
    path.write_bytes(HEADER + record(3, schema) + record(4, channel) + record(5, message))
    with open_bag(path) as bag, pytest.raises(BagError) as caught:
        bag.messages(["/odd"])
    assert "topic /odd of type acme/msg/Odd has a definition that cannot be" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_an_idl_that_computes_is_refused(tmp_path: Path) -> None:
    """Brackets in brackets cost the parser exponential time, shifts any memory."""
    for value in ("(" * 40 + "1" + ")" * 40, "(1 + (2 + (3)))", "1 << 99999999999"):
        members = f"const long X = {value}; struct Odd {{ long a; }};"
        idl = f"module acme {{ module msg {{ {members} }}; }};"
        schema = struct.pack("<H", 1) + text("acme/msg/Odd") + text("ros2idl") + text(idl)
        channel = struct.pack("<HH", 1, 1) + text("/odd") + text("cdr") + struct.pack("<I", 0)
        message = struct.pack("<HIQQ", 1, 0, 5, 5) + b"\0\1\0\0\0\0\0\0"
        path = tmp_path / "b.mcap"
        path.write_bytes(HEADER + record(3, schema) + record(4, channel) + record(5, message))
        with open_bag(path) as bag, pytest.raises(BagError, match="expected literals"):
            bag.messages(["/odd"])


def test_an_array_of_absurd_length_in_a_message_takes_no_memory(tmp_path: Path) -> None:
    kind = "sensor_msgs/msg/JointState"
    data = bytearray(STORE.serialize_cdr(joint_state(0, [], []), kind))
    path = write_bag(tmp_path / "b", few_messages(3), StoragePlugin.SQLITE3)
    for place in range(12, len(data) - 3, 4):
        hostile = data.copy()
        hostile[place : place + 4] = b"\xff\xff\xff\xff"
        with sqlite3.connect(path / "b.db3") as database:
            database.execute("UPDATE messages SET data = ? WHERE topic_id = 2", (bytes(hostile),))
        database.close()
        with open_bag(path) as bag:
            assert list(bag.messages(["/joints"])) == []
            assert "/joints: 1 messages" in bag.notes[0]


def test_chunks_that_all_overlap_in_time_are_refused_beyond_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vla_training.data.bags import mcap_file

    rows = in_rows(few_messages(60), 3)
    mixed = [[first, *last] for first, last in zip(rows[0] * 7, rows, strict=False)]
    write_mcap(tmp_path / "b.mcap", mixed)
    with open_bag(tmp_path / "b.mcap") as bag:
        assert len(contents(bag)) == 4 * len(mixed)
    monkeypatch.setattr(mcap_file, "_OPEN_LIMIT", 3000)
    with open_bag(tmp_path / "b.mcap") as bag, pytest.raises(BagError, match="overlap in time"):
        contents(bag)


def test_an_index_that_points_elsewhere_gives_no_wrong_messages(tmp_path: Path) -> None:
    messages = few_messages(12)
    write_mcap(tmp_path / "b.mcap", in_rows(messages, 3), checksums=False)
    reader = McapReader(tmp_path / "b.mcap")
    reader.open()
    offsets = [c.chunk_start_offset for c in reader.chunks]
    reader.close()
    data = (tmp_path / "b.mcap").read_bytes()
    for wrong in (0, 5, offsets[2], offsets[1] + 1, len(data), 1 << 62):
        changed = data.replace(struct.pack("<Q", offsets[1]), struct.pack("<Q", wrong))
        (tmp_path / "b.mcap").write_bytes(changed)
        with open_bag(tmp_path / "b.mcap") as bag:
            found = contents(bag)
        assert set(found) <= set(plain(messages))


def test_closing_lets_go_of_the_files(tmp_path: Path) -> None:
    def open_files() -> set[str]:
        return set(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = open_files()
    paths = [write_bag(tmp_path / s.name, few_messages(), s) for s in StoragePlugin]
    with read_bags(paths) as bag:
        assert len(contents(bag)) == 48
        assert len(open_files() - before) == 2
    assert open_files() == before
    (tmp_path / "bad.mcap").write_bytes(HEADER + chunk(b"abc", 3, "bz2"))
    with pytest.raises(BagError):
        read_bags([*paths, tmp_path / "bad.mcap"])
    assert open_files() == before


def test_a_note_and_an_error_show_no_control_characters(tmp_path: Path) -> None:
    kind = "std_msgs/msg/String"
    name = "/evil\n\x1b[31m" + "x" * 500
    path = tmp_path / "b.mcap"
    odd = [Message(EPOCH, name, kind, string("x"))]
    write_mcap(path, [odd], definitions=False, checksums=False)
    path.write_bytes(path.read_bytes().replace(b"std_msgs/msg/String", b"std_msgs/msg/Strong"))
    os.truncate(path, path.stat().st_size - 1)
    with open_bag(path) as bag, pytest.raises(BagError) as caught:
        bag.messages(bag.topics)
    assert str(caught.value).isprintable()
    assert "x" * 200 not in str(caught.value)


def test_the_receipt_of_a_message_cannot_lie_beyond_what_a_clock_can_say(tmp_path: Path) -> None:
    late = [Message(1 << 63, "/said", "std_msgs/msg/String", string("late"))]
    write_mcap(tmp_path / "b.mcap", [few_messages(3), late, few_messages(3)], index=False)
    with open_bag(tmp_path / "b.mcap") as bag:
        assert len(contents(bag)) == 6
        assert bag.end <= EPOCH + 100 * MS
        assert "was received at" in bag.notes[0]
