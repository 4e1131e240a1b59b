# SPDX-License-Identifier: Apache-2.0
"""Episodes written beside the work of a node: stalls, failures, death."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from recording_samples import (
    FACTS,
    ending,
    expected,
    read_what_is_there,
    read_with_rosbags,
    sample,
    thread,
    wait,
)

from vla_nodes.recording import episode_writer
from vla_nodes.recording.mcap_file import McapFile


class Gate:
    """A disk that takes nothing until the gate is opened."""

    def __init__(self) -> None:
        self.stalled = threading.Event()
        self.opened = threading.Event()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()

    class StalledFile(McapFile):
        def flush(self) -> None:
            gate.stalled.set()
            wait(gate.opened)
            super().flush()

    monkeypatch.setattr(episode_writer, "McapFile", StalledFile)
    return gate


def test_episodes_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    writing = thread(tmp_path)
    recordings = []
    for first in (0, 100):
        recording = writing.begin(FACTS)
        for number in range(first, first + 100):
            writing.put(recording, *sample(number))
        writing.end(recording, ending("success"))
        recordings.append(recording)
    assert writing.close(30.0)
    for first, recording in zip((0, 100), recordings, strict=True):
        assert recording.failure == ""
        assert recording.folder is not None
        assert read_with_rosbags(recording.folder) == expected(range(first, first + 100))


def test_a_stalled_disk_holds_nobody_up_and_what_is_lost_is_counted(
    tmp_path: Path, gate: Gate
) -> None:
    writing = thread(tmp_path, capacity=10_000)
    recording = writing.begin(FACTS)
    writing.put(recording, *sample(0))
    wait(gate.stalled)
    for number in range(1, 300):
        writing.put(recording, *sample(number))
    assert recording.received == [150, 150, 0]
    assert recording.dropped == [99, 100, 0]
    assert writing.queued == 10_000
    assert recording.stuck(time.monotonic() + 5.0) > 5.0
    gate.opened.set()
    writing.end(recording, ending("success"))
    wait(recording.ended)
    report = recording.report
    assert report is not None
    assert [t.tally.messages + t.dropped for t in report.topics] == [150, 150, 0]
    assert [t.dropped for t in report.topics] == recording.dropped
    assert recording.folder is not None
    assert read_with_rosbags(recording.folder) == expected(range(101))
    assert "dropped: /joint_states 99, /front/image 100" in report.summary()
    assert writing.queued == 0
    assert writing.close(30.0)


def test_a_message_larger_than_the_queue_is_dropped(tmp_path: Path) -> None:
    writing = thread(tmp_path, capacity=1000)
    recording = writing.begin(FACTS)
    writing.put(recording, 0, 1, bytes(1001))
    writing.put(recording, *sample(0))
    writing.end(recording, ending("success"))
    assert writing.close(30.0)
    assert recording.folder is not None
    assert read_with_rosbags(recording.folder) == expected([0])
    assert recording.dropped == [1, 0, 0]


def test_a_file_that_grows_is_not_stuck(tmp_path: Path) -> None:
    writing = thread(tmp_path)
    recording = writing.begin(FACTS)
    assert recording.stuck(time.monotonic() + 60.0) == 0.0
    writing.put(recording, *sample(0))
    assert recording.stuck(time.monotonic() + 60.0) >= 60.0
    end = time.monotonic() + 30.0
    while recording.stuck(time.monotonic()) and time.monotonic() < end:
        recording.ended.wait(0.01)
    assert recording.stuck(time.monotonic() + 60.0) == 0.0
    assert recording.size == 100
    writing.end(recording, ending("success"))
    assert writing.close(30.0)


def test_times_of_receipt_never_run_backwards_in_a_bag(tmp_path: Path) -> None:
    writing = thread(tmp_path)
    recording = writing.begin(FACTS)
    for number, stamp in enumerate((10, 20, 15, 12, 30)):
        writing.put(recording, 0, stamp, bytes([number]))
    writing.end(recording, ending("success"))
    assert writing.close(30.0)
    assert recording.folder is not None
    found = read_with_rosbags(recording.folder)
    assert [message.stamp for message in found] == [10, 20, 20, 20, 30]
    assert [message.data[0] for message in found] == [0, 1, 2, 3, 4]


def test_an_episode_that_cannot_be_begun_says_why_and_the_next_one_works(tmp_path: Path) -> None:
    root = tmp_path / "root"
    writing = thread(root)
    recording = writing.begin(FACTS)
    writing.put(recording, *sample(0))
    wait(recording.ended)
    assert recording.failure == "No such file or directory"
    assert (recording.folder, recording.report) == (None, None)
    writing.end(recording, ending("success"))
    root.mkdir()
    recording = writing.begin(FACTS)
    writing.put(recording, *sample(0))
    writing.end(recording, ending("discard"))
    assert writing.close(30.0)
    assert (recording.failure, list(root.iterdir())) == ("", [])


FULL_AT_THE_END = """
import resource, sys
from pathlib import Path
from recording_samples import FACTS, ending, sample, thread

writing = thread(Path(sys.argv[1]), capacity=100_000_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
recording = writing.begin(FACTS)
for number in range(20):
    writing.put(recording, *sample(number, size=50_000))
writing.end(recording, ending("success"))
assert recording.ended.wait(30)
print(recording.failure)
print(recording.report.summary())
"""


def test_a_disk_that_is_full_only_for_the_last_messages_is_a_failure_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_AT_THE_END, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    failure, summary = done.stdout.splitlines()
    assert failure == "File too large"
    assert ": unknown, 0.0 s, 0 messages, 0.0 MB; File too large; dropped: " in summary


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from recording_samples import FACTS, sample, thread

writing = thread(Path(sys.argv[1]))
recording = writing.begin(FACTS)
for number in range(200):
    writing.put(recording, *sample(number))
while recording.waiting_since is not None:
    threading.Event().wait(0.01)
for number in range(200, 300):
    writing.put(recording, *sample(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_flushed_outlives_the_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parent, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    (file,) = tmp_path.glob("*/*.mcap")
    found = read_what_is_there(file)
    assert found == expected(range(300))[: len(found)]
    assert len(found) >= 200
    assert '"state": "recording"' in (file.parent / "episode.json").read_text()
    assert not (file.parent / "metadata.yaml").exists()
