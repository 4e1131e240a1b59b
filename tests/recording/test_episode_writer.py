# SPDX-License-Identifier: Apache-2.0
"""Episodes on disk, read back by libraries that did not write them."""

import errno
import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import psutil
import pytest
import yaml
from mcap.reader import make_reader
from recording_samples import (
    CHANNELS,
    STREAMS,
    ending,
    expected,
    read_what_is_there,
    read_with_mcap,
    read_with_rosbags,
    sample,
    writer,
)
from rosbags.rosbag2 import Reader
from ruamel.yaml import YAML

from vla_nodes.recording.episode_writer import Options
from vla_nodes.recording.errors import RecordingError
from vla_nodes.recording.mcap_file import McapFile


@pytest.mark.parametrize("compress", [False, True])
def test_what_was_written_is_read_back_by_rosbags_and_by_mcap(
    tmp_path: Path, compress: bool
) -> None:
    episode = writer(tmp_path, Options(compress=compress))
    for number in range(50):
        episode.write(*sample(number))
        if number % 7 == 0:
            episode.flush()
    report = episode.close(ending("success"), (25, 25, 0))
    assert read_with_rosbags(episode.folder) == expected(range(50))
    assert read_with_mcap(next(episode.folder.glob("*.mcap"))) == expected(range(50))
    assert report.summary() == (f"{episode.folder.name}: success, 0.5 s, 50 messages, 0.0 MB")
    assert {file.name for file in episode.folder.iterdir()} == {
        "episode.json",
        "metadata.yaml",
        f"{episode.folder.name}_0.mcap",
    }


def test_the_bag_says_what_it_is_about(tmp_path: Path) -> None:
    episode = writer(tmp_path)
    for number in range(0, 20, 2):
        episode.write(*sample(number))
    before = json.loads((episode.folder / "episode.json").read_text())
    assert (before["state"], before["outcome"], before["ended"]) == ("recording", "unknown", "")
    assert not (episode.folder / "metadata.yaml").exists()

    episode.close(ending("failure", "it fell"), (13, 0, 0))
    custom = {
        "task": "wipe the table",
        "outcome": "failure",
        "reason": "it fell",
        "contract": "sample_arm",
        "contract_digest": "1e5",
        "git": "00e7",
        "started": "2026-03-04T05:06:07.890+00:00",
        "ended": "2026-03-04T05:06:17.000+00:00",
    }
    with Reader(episode.folder) as bag:
        assert bag.message_count == 10
        assert bag.end_time - bag.start_time == 18 * 10_000_000 + 1
        for connection, channel in zip(bag.connections, CHANNELS, strict=True):
            assert connection.topic == channel.topic
            assert connection.digest == channel.definition.digest
            assert connection.msgdef.data == channel.definition.text
    # Whichever version of YAML it is read as, texts are texts.
    for load in (yaml.safe_load, YAML(typ="safe").load):
        document = load((episode.folder / "metadata.yaml").read_text())
        assert document["rosbag2_bagfile_information"]["custom_data"] == custom
    with next(episode.folder.glob("*.mcap")).open("rb") as stream:
        inside = {m.name: m.metadata for m in make_reader(stream).iter_metadata()}
    assert inside["episode"] == custom

    after = json.loads((episode.folder / "episode.json").read_text())
    assert {key: after[key] for key in custom} == custom
    assert after["state"] == "complete"
    assert after["missing"] == ["/front/image"]
    assert after["topics"]["/joint_states"] == {
        "type": "sensor_msgs/msg/JointState",
        "messages": 10,
        "bytes": 1000,
        "rate_hz": 50.0,
        "dropped": 3,
    }


def test_a_file_cut_at_any_byte_gives_all_its_whole_chunks(tmp_path: Path) -> None:
    episode = writer(tmp_path)
    file = next(episode.folder.glob("*.mcap"))
    ends = {}
    for number in range(12):
        episode.write(*sample(number, size=20))
        if number % 3 == 2:
            episode.flush()
            ends[file.stat().st_size] = number + 1
    whole = file.read_bytes()
    cut = tmp_path / "cut.mcap"
    for size in range(8, len(whole) + 1, 11):
        cut.write_bytes(whole[:size])
        found = read_what_is_there(cut)
        assert found == expected(range(12), size=20)[: len(found)]
        assert len(found) >= max((n for end, n in ends.items() if end <= size), default=0)
    assert read_what_is_there(file) == expected(range(12), size=20)


def test_no_message_is_lost_where_a_file_is_full(tmp_path: Path) -> None:
    episode = writer(tmp_path, Options(split_size=20_000))
    for number in range(1000):
        episode.write(*sample(number))
        if number % 5 == 4:
            episode.flush()
    episode.close(ending("success"), (500, 500, 0))
    assert read_with_rosbags(episode.folder) == expected(range(1000))
    document = yaml.safe_load((episode.folder / "metadata.yaml").read_text())
    information = document["rosbag2_bagfile_information"]
    names = information["relative_file_paths"]
    assert names == [f"{episode.folder.name}_{number}.mcap" for number in range(len(names))]
    assert {file.name for file in episode.folder.glob("*.mcap")} == set(names)
    assert len(names) > 3
    parts = [read_with_mcap(episode.folder / name) for name in names]
    assert list(chain.from_iterable(parts)) == expected(range(1000))
    assert all((episode.folder / name).stat().st_size > 20_000 for name in names[:-1])
    for name in names:
        with (episode.folder / name).open("rb") as stream:
            outcomes = [m.metadata["outcome"] for m in make_reader(stream).iter_metadata()]
            # How an episode ends is not known before its last file.
            assert outcomes == (["success"] if name == names[-1] else [])
    for part, described in zip(parts, information["files"], strict=True):
        assert described["message_count"] == len(part)
        assert described["starting_time"]["nanoseconds_since_epoch"] == part[0].stamp
        assert described["duration"]["nanoseconds"] == part[-1].stamp - part[0].stamp


def test_an_episode_that_ends_with_a_full_file_has_no_empty_one(tmp_path: Path) -> None:
    episode = writer(tmp_path, Options(split_size=1))
    episode.write(*sample(0))
    episode.flush()
    episode.close(ending("success"), (1, 0, 0))
    assert len(list(episode.folder.glob("*.mcap"))) == 1


def test_an_episode_without_messages_is_a_bag(tmp_path: Path) -> None:
    episode = writer(tmp_path)
    report = episode.close(ending("unknown"), (0, 0, 0))
    assert report.missing == ["/joint_states", "/front/image"]
    assert "nothing arrived on /joint_states, /front/image" in report.summary()
    with Reader(episode.folder) as bag:
        assert bag.message_count == 0
        assert [c.topic for c in bag.connections] == [s.topic for s in STREAMS]


def test_a_discarded_episode_is_gone(tmp_path: Path) -> None:
    episode = writer(tmp_path)
    episode.write(*sample(0))
    report = episode.discard(ending("discard"), (1, 0, 0))
    assert list(tmp_path.iterdir()) == []
    assert ": discarded, " in report.summary()


def test_a_discarded_episode_that_the_disk_does_not_let_go_of_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    episode = writer(tmp_path)
    episode.write(*sample(0))
    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(OSError, match="Input/output error"):
        episode.discard(ending("discard"), (1, 0, 0))
    assert [folder.name[0] for folder in tmp_path.iterdir()] == ["."]


def test_folders_have_the_time_of_day_and_a_number_that_grows(tmp_path: Path) -> None:
    (tmp_path / "2020-01-01T00-00-00Z_0041").mkdir()
    (tmp_path / "run_20250601").mkdir()
    names = [writer(tmp_path).name for _ in range(2)]
    assert names == ["2026-03-04T05-06-07Z_0042", "2026-03-04T05-06-07Z_0043"]


def test_too_little_room_keeps_an_episode_from_beginning(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="MB are free on the disk"):
        writer(tmp_path, Options(min_free=1 << 62))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vandal", [Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_file_that_somebody_removes_or_empties_is_noticed(tmp_path: Path, vandal: object) -> None:
    episode = writer(tmp_path)
    episode.write(*sample(0))
    episode.flush()
    vandal(next(episode.folder.glob("*.mcap")))
    episode.write(*sample(1))
    with pytest.raises(RecordingError, match=r"_0\.mcap"):
        episode.flush()


def test_a_file_that_cannot_be_begun_leaves_nothing_open(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            McapFile(tmp_path / "a.mcap", CHANNELS, compress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert psutil.Process().num_fds() == before
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_no_reason_to_hang(tmp_path: Path) -> None:
    episode = writer(tmp_path)
    episode.write(*sample(0))
    shutil.rmtree(episode.folder)
    with pytest.raises(OSError, match="No such file"):
        episode.close(ending("success"), (1, 0, 0))


FULL = """
import resource, signal, sys
from pathlib import Path
from recording_samples import Options, sample, thread

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recording_thread = thread(Path(sys.argv[1]), Options(split_size=int(sys.argv[2])), 100_000_000)
from recording_samples import FACTS
recording = recording_thread.begin(FACTS)
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000))
for number in range(400):
    recording_thread.put(recording, *sample(number, size=50_000))
assert recording.ended.wait(30)
print(recording.failure)
print(recording.report.summary())
"""


@pytest.mark.parametrize("split", [0, 5_000_000_000])
def test_a_full_disk_ends_an_episode_that_can_be_read(tmp_path: Path, split: int) -> None:
    # A limit on the size of files is to a writer what a full disk is.
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(split)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    failure, summary = done.stdout.strip().splitlines()
    assert failure == "File too large"
    assert ": unknown, " in summary
    assert "File too large" in summary
    (folder,) = tmp_path.iterdir()
    found = read_with_rosbags(folder)
    assert 50 < len(found) < 200
    assert found == expected(range(len(found)), size=50_000)
    assert read_with_mcap(next(folder.glob("*.mcap"))) == found
    document = json.loads((folder / "episode.json").read_text())
    assert (document["state"], document["outcome"]) == ("complete", "unknown")
    counts = Counter(message.topic for message in found)
    for topic, figures in document["topics"].items():
        assert figures["messages"] == counts[topic]
    assert sum(f["messages"] + f["dropped"] for f in document["topics"].values()) <= 400
    assert str(tmp_path) not in (folder / "episode.json").read_text()
