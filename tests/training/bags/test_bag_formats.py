# SPDX-License-Identifier: Apache-2.0
import sqlite3
import subprocess
import sys
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from bag_files import contents, few_messages, in_rows, plain, write_mcap
from bag_samples import EPOCH, MS, STORE, Message, image, string, write_bag
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_typestore

from vla_training.data.bags import ros1_file
from vla_training.data.bags.bag import BagError, Topic, open_bag, read_bags

KINDS = {m.topic: m.type for m in few_messages(3)}


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_rosbag2_folder_gives_its_messages_topics_and_facts(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    messages = few_messages()
    custom = {"task": "stack: the cups", "git": "0012345", "outcome": "yes"}
    path = write_bag(tmp_path / "bag", messages, storage, custom)
    with open_bag(path) as bag:
        assert contents(bag) == plain(messages)
        assert bag.topics == {t: Topic(t, KINDS[t], 8) for t in KINDS}
        assert (bag.start, bag.end) == (messages[0].receive, messages[-1].receive + 1)
        assert (bag.path, bag.custom, bag.notes) == (path, custom, ())


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        (storage, mode)
        for storage in StoragePlugin
        for mode in CompressionMode
        if storage is StoragePlugin.MCAP or mode is not CompressionMode.STORAGE
    ],
)
def test_every_compression_of_rosbag2_is_read(
    tmp_path: Path, storage: StoragePlugin, mode: CompressionMode
) -> None:
    messages = few_messages()
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=storage)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        topics = {m.topic: m.type for m in messages}
        connections = {t: writer.add_connection(t, k, typestore=STORE) for t, k in topics.items()}
        for receive, topic, kind, value in messages:
            writer.write(connections[topic], receive, STORE.serialize_cdr(value, kind))
    with open_bag(tmp_path / "bag") as bag:
        assert contents(bag) == plain(messages)
        assert bag.notes == ()


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_a_single_mcap_is_read_with_and_without_chunks_and_index(
    tmp_path: Path, compression: str, chunked: bool, index: bool
) -> None:
    messages = few_messages()
    path = tmp_path / "one.mcap"
    write_mcap(path, in_rows(messages, 5), compression, chunked, index)
    with open_bag(path) as bag:
        assert contents(bag) == plain(messages)
        assert bag.topics == {t: Topic(t, KINDS[t], 8) for t in KINDS}
        assert (bag.start, bag.end) == (messages[0].receive, messages[-1].receive + 1)
        assert bag.notes == ()


def test_a_single_db3_is_read_whatever_its_name(tmp_path: Path) -> None:
    messages = few_messages()
    folder = write_bag(tmp_path / "bag", messages, StoragePlugin.SQLITE3)
    path = (folder / "bag.db3").rename(tmp_path / "take #3, 50%20 sure?.db3")
    with open_bag(path) as bag:
        assert contents(bag) == plain(messages)


ROS1 = get_typestore(Stores.ROS1_NOETIC)
ROS1_KIND = "sensor_msgs/msg/JointState"
ROS1_POSITIONS = np.random.default_rng(0).normal(size=(9, 2))


def ros1_messages() -> list[tuple[int, bytes]]:
    """Joint states as ROS 1 serializes them, and when they were received."""
    header = ROS1.types["std_msgs/msg/Header"]
    time = ROS1.types["builtin_interfaces/msg/Time"]
    joint = ROS1.types[ROS1_KIND]
    messages = []
    for k, position in enumerate(ROS1_POSITIONS):
        stamp = header(seq=k, stamp=time(sec=k, nanosec=7), frame_id="base")
        message = joint(stamp, ["a", "b"], position, np.zeros(0), np.zeros(0))
        messages.append((EPOCH + k * MS, bytes(ROS1.serialize_ros1(message, ROS1_KIND))))
    return messages


def check_ros1(path: Path) -> None:
    with open_bag(path) as bag:
        assert bag.topics == {"/joints": Topic("/joints", ROS1_KIND, 9)}
        assert (bag.start, bag.end) == (EPOCH, EPOCH + 8 * MS + 1)
        samples = list(bag.messages(["/joints"], EPOCH + MS, EPOCH + 8 * MS))
    assert [s.receive for s in samples] == [EPOCH + k * MS for k in range(1, 8)]
    np.testing.assert_array_equal([s.message.position for s in samples], ROS1_POSITIONS[1:8])
    assert samples[0].message.header.stamp.sec == 1
    assert samples[0].message.header.frame_id == "base"


@pytest.mark.parametrize("compression", [None, *Ros1Writer.CompressionFormat])
def test_a_bag_of_ros_1_is_read(tmp_path: Path, compression: object) -> None:
    path = tmp_path / "b.bag"
    writer = Ros1Writer(path)
    if compression:
        writer.set_compression(compression)
    with writer:
        connection = writer.add_connection("/joints", ROS1_KIND, typestore=ROS1)
        for receive, data in ros1_messages():
            writer.write(connection, receive, data)
    check_ros1(path)


def test_a_bag_of_ros_1_that_was_converted_to_mcap_is_read(tmp_path: Path) -> None:
    path = tmp_path / "b.mcap"
    text = ROS1.generate_msgdef(ROS1_KIND, ros_version=1)[0]
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros1", "test")
        schema = writer.register_schema("sensor_msgs/JointState", "ros1msg", text.encode())
        channel = writer.register_channel("/joints", "ros1", schema)
        for receive, data in ros1_messages():
            writer.add_message(channel, receive, data, receive)
        writer.finish()
    check_ros1(path)


def test_a_chunk_of_ros_1_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.bag"
    with Ros1Writer(path) as writer:
        connection = writer.add_connection("/joints", ROS1_KIND, typestore=ROS1)
        writer.write(connection, EPOCH, ros1_messages()[0][1])
    monkeypatch.setattr(ros1_file, "SIZE_LIMIT", 100)
    with pytest.raises(BagError, match="bytes, more than the limit of 100"):
        open_bag(path)


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_split_bag_is_read_as_one(tmp_path: Path, storage: StoragePlugin) -> None:
    messages = few_messages(36)
    folder = tmp_path / "bag"
    names = []
    for k, part in enumerate(in_rows(messages, 3)):  # twelve, so that names sort as numbers do
        piece = write_bag(tmp_path / f"bag_{k}", part, storage)
        (file,) = (f for f in piece.iterdir() if f.name != "metadata.yaml")
        folder.mkdir(exist_ok=True)
        names.append(file.rename(folder / file.name).name)
    with open_bag(folder) as bag:  # interrupted: no metadata
        assert contents(bag) == plain(messages)
    (folder / "metadata.yaml").write_text(
        "rosbag2_bagfile_information:\n  version: 9\n  storage_identifier: any\n"
        f"  relative_file_paths: [{', '.join(names)}]\n  custom_data: ~\n"
    )
    with open_bag(folder) as bag:
        assert contents(bag) == plain(messages)
        assert (bag.custom, bag.notes) == ({}, ())


@pytest.mark.parametrize("kind", ["db3", "mcap", "loose", "split"])
def test_start_and_stop_bound_the_time_of_receipt(tmp_path: Path, kind: str) -> None:
    messages = few_messages()
    path = tmp_path / ("b.db3" if kind == "db3" else "b.mcap")
    if kind == "db3":
        (write_bag(tmp_path / "b", messages, StoragePlugin.SQLITE3) / "b.db3").rename(path)
    elif kind == "split":
        path = tmp_path / "s"
        path.mkdir()
        for k, part in enumerate(in_rows(messages, 7)):
            write_mcap(path / f"s_{k}.mcap", in_rows(part, 2))
    else:
        write_mcap(path, in_rows(messages, 5), chunked=kind == "mcap")
    times = [m.receive for m in messages]
    bounds = [None, 0, times[0], times[3], times[4] + 1, times[11], times[-1], times[-1] + 1]
    with open_bag(path) as bag:
        for start in bounds:
            for stop in bounds:
                low = -1 if start is None else start
                high = 1 << 63 if stop is None else stop
                expected = [m for m in messages if low <= m.receive < high]
                assert contents(bag, start, stop) == plain(expected)


def test_messages_come_in_order_of_receipt_however_the_file_has_them(tmp_path: Path) -> None:
    messages = few_messages(60)
    ordered = plain(messages)
    mixed = [messages[k] for k in np.random.default_rng(1).permutation(60)]
    by_topic = [[m for m in messages if m.topic == topic] for topic in KINDS]
    rows = [row for topic in by_topic for row in in_rows(topic, 4)]
    for name, chunks in (("mixed", in_rows(mixed, 7)), ("topics", rows), ("one", [mixed])):
        write_mcap(tmp_path / f"{name}.mcap", chunks)
        write_mcap(tmp_path / f"{name}_loose.mcap", chunks, chunked=False)
        write_mcap(tmp_path / f"{name}_bare.mcap", chunks, index=False)
        for file in tmp_path.glob(f"{name}*.mcap"):
            with open_bag(file) as bag:
                assert contents(bag) == ordered


def test_messages_received_at_one_time_keep_their_order(tmp_path: Path) -> None:
    same = [Message(EPOCH, "/said", "std_msgs/msg/String", string(str(k))) for k in range(20)]
    write_mcap(tmp_path / "same.mcap", in_rows(same, 3))
    for path in (tmp_path / "same.mcap", write_bag(tmp_path / "s", same, StoragePlugin.SQLITE3)):
        with open_bag(path) as bag:
            texts = [sample.message.data for sample in bag.messages(["/said"])]
        assert texts == [str(k) for k in range(20)]


def test_bags_read_together_are_merged_by_receipt(tmp_path: Path) -> None:
    messages = few_messages(45)
    parts = {topic: [m for m in messages if m.topic == topic] for topic in KINDS}
    a = write_bag(tmp_path / "a", parts["/cam"], custom={"task": "first", "robot": "arm"})
    b = write_bag(tmp_path / "b", parts["/joints"], StoragePlugin.SQLITE3, {"task": "second"})
    c = tmp_path / "c.mcap"
    write_mcap(c, in_rows(parts["/said"], 2))
    with read_bags([b, c, a]) as bag:
        assert contents(bag) == plain(messages)
        assert bag.custom == {"task": "second", "robot": "arm"}
        assert (bag.start, bag.end) == (messages[0].receive, messages[-1].receive + 1)
        assert {t.count for t in bag.topics.values()} == {15}


def test_only_the_topics_asked_for_are_deserialized(tmp_path: Path) -> None:
    messages = few_messages()
    path = tmp_path / "b.mcap"
    write_mcap(path, in_rows(messages, 4), index=False, checksums=False)
    # The definition of the camera's type is of no interest to who asks for another topic.
    path.write_bytes(path.read_bytes().replace(b"uint32 height", b"what is this?"))
    with open_bag(path) as bag:
        said = plain(bag.messages(["/said", "/not/there"]))
        with pytest.raises(BagError, match=r"topic /cam of type \S*Image has a definition that"):
            bag.messages(["/cam"])
    assert said == plain([m for m in messages if m.topic == "/said"])


def test_reading_twice_and_side_by_side_gives_the_same(tmp_path: Path) -> None:
    messages = few_messages()
    write_mcap(tmp_path / "b.mcap", in_rows(messages, 5), "zstd")
    with open_bag(tmp_path / "b.mcap") as bag:
        pairs = list(zip(bag.messages(bag.topics), bag.messages(bag.topics), strict=True))
        assert plain(p[0] for p in pairs) == plain(p[1] for p in pairs) == plain(messages)
        next(bag.messages(bag.topics))
        assert contents(bag) == plain(messages)


def test_a_bag_without_messages_has_no_times(tmp_path: Path) -> None:
    for storage in StoragePlugin:
        with Writer(tmp_path / storage.name, version=9, storage_plugin=storage) as writer:
            writer.add_connection("/said", "std_msgs/msg/String", typestore=STORE)
        with open_bag(tmp_path / storage.name) as bag:
            assert (bag.start, bag.end, list(bag.messages(["/said"]))) == (0, 0, [])
            assert bag.topics == {"/said": Topic("/said", "std_msgs/msg/String", 0)}


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    messages = few_messages()
    write_mcap(tmp_path / "b.mcap", [messages])
    with open_bag((tmp_path / "b.mcap").rename(tmp_path / "copy.bak")) as bag:
        assert contents(bag) == plain(messages)


def test_what_was_decompressed_to_disk_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    write_mcap(tmp_path / "b.mcap", [few_messages()])
    packed = tmp_path / "b.mcap.zstd"
    packed.write_bytes(zstandard.compress((tmp_path / "b.mcap").read_bytes()))
    with open_bag(packed) as bag:
        assert contents(bag) == plain(few_messages())
        assert list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "temporary").iterdir())


def test_pixels_are_not_copied_out_of_their_chunk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    kind = "sensor_msgs/msg/Image"
    write_mcap(tmp_path / "b.mcap", [[Message(EPOCH, "/cam", kind, image(EPOCH, pixels))]])
    with open_bag(tmp_path / "b.mcap") as bag:
        (sample,) = bag.messages(["/cam"])
    data = sample.message.data
    np.testing.assert_array_equal(data, pixels.reshape(-1))
    assert not data.flags.owndata
    assert not data.flags.writeable


def test_a_small_message_does_not_keep_its_chunk_in_memory(tmp_path: Path) -> None:
    write_mcap(tmp_path / "b.mcap", [few_messages(300)])
    with open_bag(tmp_path / "b.mcap") as bag:
        base = next(bag.messages(["/cam"])).message.data.base
    while isinstance(base, np.ndarray):
        base = base.base
    assert memoryview(base).nbytes < 500


def test_memory_does_not_grow_with_the_length_of_a_bag(tmp_path: Path) -> None:
    """100 MB of chunks pass through a process that may grow by 40."""
    pixels = np.zeros((512, 1024, 3), np.uint8)
    kind = "sensor_msgs/msg/Image"
    chunks = [
        [Message(EPOCH + k, "/cam", kind, image(EPOCH + k, pixels + np.uint8(k)))]
        for k in range(64)
    ]
    write_mcap(tmp_path / "b.mcap", chunks, "zstd")
    code = f"""
import resource
from pathlib import Path
from vla_training.data.bags.bag import open_bag
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_bag(Path({str(tmp_path / "b.mcap")!r})) as bag:
    samples = bag.messages(["/cam"])
    next(samples)
    before = peak()
    total = sum(int(sample.message.data[0]) for sample in samples)
assert total == sum(range(1, 64)), total
assert peak() - before < 40_000, peak() - before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_definition_in_idl_is_read(tmp_path: Path) -> None:
    idl = """\
================================================================================
IDL: demo/msg/Pair
#include "demo/msg/Inner.idl"
module demo {
  module msg {
    // It has (many (brackets)) in a comment << here.
    @verbatim (language="comment", text="A (nested (text)) << too")
    struct Pair {
      demo::msg::Inner inner;
      sequence<double> values;
    };
  };
};

================================================================================
IDL: demo/msg/Inner
module demo {
  module msg {
    struct Inner {
      @unit (value="m")
      double x;
      string name;
    };
  };
};
"""
    store = get_typestore(Stores.EMPTY)
    for part in idl.split("=" * 80 + "\n")[1:]:
        store.register(get_types_from_idl(part[part.index("module") :]))
    inner = store.types["demo/msg/Inner"](x=1.5, name="here")
    pair = store.types["demo/msg/Pair"](inner=inner, values=np.array([1.0, 2.0]))
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/pair", "demo/msg/Pair", msgdef=idl, rihs01="RIHS01_0")
        writer.write(connection, EPOCH, store.serialize_cdr(pair, "demo/msg/Pair"))
    with open_bag(path) as bag:
        (sample,) = bag.messages(["/pair"])
    assert (sample.message.inner.x, sample.message.inner.name) == (1.5, "here")
    np.testing.assert_array_equal(sample.message.values, [1.0, 2.0])


def test_a_big_endian_message_is_read(tmp_path: Path) -> None:
    (message,) = (m for m in few_messages(3) if m.topic == "/joints")
    with Writer(tmp_path / "b", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection(message.topic, message.type, typestore=STORE)
        data = STORE.serialize_cdr(message.value, message.type, little_endian=False)
        writer.write(connection, message.receive, data)
    with open_bag(tmp_path / "b") as bag:
        assert contents(bag) == plain([message])


def _old_db3(path: Path, messages: list[Message]) -> None:
    """A file as the first ROS 2 distributions wrote it, without definitions."""
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
            "serialization_format TEXT NOT NULL)"
        )
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
            "timestamp INTEGER NOT NULL, data BLOB NOT NULL)"
        )
        ids: dict[str, int] = {}
        for receive, topic, kind, value in messages:
            if topic not in ids:
                ids[topic] = len(ids) + 1
                row = (ids[topic], topic, kind, "cdr")
                database.execute("INSERT INTO topics VALUES (?, ?, ?, ?)", row)
            data = (
                bytes(STORE.serialize_cdr(value, kind)) if not isinstance(value, bytes) else value
            )
            database.execute(
                "INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)",
                (ids[topic], receive, data),
            )
    database.close()


# What rclpy and rclcpp write for a joint state named "a" at 1.0 and for a trajectory of two points,
# the serializers of Fast DDS: bytes that belong to no field follow.
WRITTEN_BY_ROS = {
    "sensor_msgs/msg/JointState": bytes.fromhex(
        "0001000000000000000000000100000000ffffff0100000002000000610000000100000000000000"
        "0000f03f0000000000000000ffffffff00000000"
    ),
    "trajectory_msgs/msg/JointTrajectory": bytes.fromhex(
        "00010000000000000000000001000000000000000200000002000000610000000200000062000000"
        "020000000200000000000000000000000000f03f0000000000000040000000000000000000000000"
        "030000000400000002000000000000000000f03f0000000000000040000000000000000000000000"
        "030000000400000000000000000000000000000000000000000000000000000000000000"
    ),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_that_ros_leaves_behind_a_message_do_not_matter(
    tmp_path: Path, compressed: bool
) -> None:
    path = tmp_path / "b.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2", "test")
        for kind, data in WRITTEN_BY_ROS.items():
            text = STORE.generate_msgdef(kind, ros_version=2)[0]
            schema = writer.register_schema(kind, "ros2msg", text.encode())
            channel = writer.register_channel(kind, "cdr", schema)
            whole = zstandard.compress(data) if compressed else data
            writer.add_message(channel, EPOCH, whole, EPOCH)
        writer.finish()
    with open_bag(path) as bag:
        joints, trajectory = (s.message for s in bag.messages(list(WRITTEN_BY_ROS)))
        assert bag.notes == ()
    assert joints.name == ["a"]
    assert [list(v) for v in (joints.position, joints.velocity, joints.effort)] == [[1.0], [], []]
    assert [list(point.positions) for point in trajectory.points] == [[1.0, 2.0]] * 2
    assert [p.time_from_start.nanosec for p in trajectory.points] == [4, 4]


def test_more_bytes_behind_a_message_than_ros_leaves_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "b.mcap"
    (data,) = (d for k, d in WRITTEN_BY_ROS.items() if "JointState" in k)
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2", "test")
        text = STORE.generate_msgdef("sensor_msgs/msg/JointState", ros_version=2)[0]
        schema = writer.register_schema("sensor_msgs/msg/JointState", "ros2msg", text.encode())
        channel = writer.register_channel("/joints", "cdr", schema)
        writer.add_message(channel, EPOCH, data + bytes(100), EPOCH)
        writer.finish()
    with open_bag(path) as bag:
        assert contents(bag) == []
        assert "bytes follow the" in bag.notes[0]


def test_a_db3_without_definitions_is_read_by_the_known_ones(tmp_path: Path) -> None:
    messages = few_messages()
    _old_db3(tmp_path / "old.db3", messages)
    with open_bag(tmp_path / "old.db3") as bag:
        assert contents(bag) == plain(messages)


def test_video_packets_are_known_without_definitions(tmp_path: Path) -> None:
    """The bytes are put together by hand from the rules of CDR."""
    head = b"\0\1\0\0"
    stamp = np.array([12, 34], "<u4").tobytes()
    text = (2).to_bytes(4, "little") + b"f\0" + b"\0\0"
    packet = (
        head
        + stamp
        + text
        + np.array([640, 480], "<i4").tobytes()
        + (5).to_bytes(4, "little")
        + b"h264\0"
        + b"\0" * 7  # up to the next multiple of eight
        + (99).to_bytes(8, "little")
        + b"\1\0\0\0"  # flags, is_bigendian
        + (3).to_bytes(4, "little")
        + b"abc"
    )
    video = (
        head + stamp + text + (3).to_bytes(4, "little") + b"xyz\0" + (5).to_bytes(4, "little")
        + b"h265\0"
    )  # fmt: skip
    kinds = ("ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "foxglove_msgs/msg/CompressedVideo")
    _old_db3(
        tmp_path / "video.db3",
        [Message(1, "/packet", kinds[0], packet), Message(2, "/video", kinds[1], video)],
    )
    with open_bag(tmp_path / "video.db3") as bag:
        first, second = (sample.message for sample in bag.messages(bag.topics))
        assert bag.notes == ()
    assert (first.header.stamp.sec, first.header.frame_id) == (12, "f")
    assert (first.width, first.height, first.encoding) == (640, 480, "h264")
    assert (first.pts, first.flags, bytes(first.data)) == (99, 1, b"abc")
    assert (second.timestamp.nanosec, second.frame_id) == (34, "f")
    assert (bytes(second.data), second.format) == (b"xyz", "h265")


def test_types_of_an_installed_package_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vla_training.data.bags import message_types

    folder = tmp_path / "share" / "vla_interfaces" / "msg"
    folder.mkdir(parents=True)
    (folder / "Greeting.msg").write_text("string words\nuint32 COUNT=3\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    message_types._known_types.cache_clear()
    message_types._store.cache_clear()
    try:
        data = b"\0\1\0\0" + (3).to_bytes(4, "little") + b"hi\0"
        _old_db3(tmp_path / "b.db3", [Message(1, "/hi", "vla_interfaces/msg/Greeting", data)])
        with open_bag(tmp_path / "b.db3") as bag:
            assert next(bag.messages(["/hi"])).message.words == "hi"
    finally:
        message_types._known_types.cache_clear()
        message_types._store.cache_clear()


def test_an_unknown_type_is_an_error_only_for_who_asks(tmp_path: Path) -> None:
    messages = few_messages(6)
    _old_db3(tmp_path / "b.db3", [*messages, Message(EPOCH, "/odd", "acme/msg/Odd", b"\0\1\0\0")])
    with open_bag(tmp_path / "b.db3") as bag:
        assert len(list(bag.messages(["/cam", "/joints", "/said"]))) == 6
        with pytest.raises(BagError, match=r"topic /odd of type acme/msg/Odd.*no definition.*MCAP"):
            bag.messages(["/odd"])


def test_a_topic_of_two_types_is_an_error_for_who_asks(tmp_path: Path) -> None:
    one = write_bag(tmp_path / "a", few_messages())
    kind = "std_msgs/msg/String"
    two = write_bag(tmp_path / "b", [Message(EPOCH, "/cam", kind, string("not a camera"))])
    with read_bags([one, two]) as bag:
        assert len(list(bag.messages(["/said"]))) == 8
        with pytest.raises(BagError, match=r"/cam has messages of .*Image and of .*String"):
            bag.messages(["/cam"])


def test_another_encoding_than_cdr_is_named(tmp_path: Path) -> None:
    from mcap.writer import Writer as McapWriter

    with (tmp_path / "b.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start()
        schema = writer.register_schema("Pose", "jsonschema", b"{}")
        channel = writer.register_channel("/pose", "json", schema)
        writer.add_message(channel, 5, b"{}", 5)
        writer.finish()
    with open_bag(tmp_path / "b.mcap") as bag:
        assert bag.topics["/pose"].count == 1
        with pytest.raises(BagError, match="'json', expected 'cdr'"):
            bag.messages(["/pose"])


def test_chunks_of_several_lz4_blocks_are_read(tmp_path: Path) -> None:
    """The C++ writers make frames without a size, of blocks that depend on each other."""
    messages = few_messages(200)
    write_mcap(tmp_path / "b.mcap", [messages], "lz4", index=False, checksums=False)
    from mcap.data_stream import RecordBuilder
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader

    with (tmp_path / "b.mcap").open("rb") as file:
        (chunk,) = (r for r in StreamReader(file, emit_chunks=True).records if type(r) is Chunk)
    raw = lz4.frame.decompress(chunk.data)
    chunk.data = lz4.frame.compress(raw, block_linked=True, store_size=False, block_size=4)
    builder = RecordBuilder()
    chunk.write(builder)
    (tmp_path / "c.mcap").write_bytes(b"\x89MCAP0\r\n" + builder.end())
    with open_bag(tmp_path / "c.mcap") as bag:
        assert contents(bag) == plain(messages)
