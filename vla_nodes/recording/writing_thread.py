# SPDX-License-Identifier: Apache-2.0
"""Episodes written beside the work of a node, which never waits for a disk."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from vla_nodes.recording.episode_writer import EpisodeWriter, Options
from vla_nodes.recording.errors import RecordingError, one_line
from vla_nodes.recording.mcap_file import Channel
from vla_nodes.recording.report import Ending, Facts, Report
from vla_nodes.recording.streams import Stream

PERIOD = 0.05  # s between looks at the queue
FLUSH = 0.4  # s after which a chunk ends, so that little is lost with the process


class Recording:
    """An episode on its way to the disk.

    Counts are written by the thread that puts messages, the rest by the one that writes.

    Attributes:
        facts: What it is about.
        begun: When, on the steady clock in seconds.
        folder: Where it is written; None until it has been made.
        received: Messages that were sent to here, per channel.
        dropped: Those of them that never came, or for which the queue had no room.
        newest: Time of receipt of the last message, ns.
        size: Bytes that are with the operating system.
        report: When it has ended; None also where nothing could be begun.
        failure: What ended it before its time, or kept its end from being written; empty when
            nothing did.
        ended: Whether it is closed.
    """

    def __init__(self, facts: Facts, channels: int) -> None:
        self.facts = facts
        self.begun = time.monotonic()
        self.folder: Path | None = None
        self.received = [0] * channels
        self.dropped = [0] * channels
        self.newest = 0
        self.size = 0
        self.report: Report | None = None
        self.failure = ""
        self.ended = threading.Event()
        self.waiting_since: float | None = None
        self.writer: EpisodeWriter | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name if self.folder else "the new episode"

    def stuck(self, now: float) -> float:
        """Seconds for which messages have come and the file has not grown; ``now`` is steady."""
        since = self.waiting_since
        return 0.0 if since is None else now - since


class _Message(NamedTuple):
    recording: Recording
    channel: int
    stamp: int
    data: bytes


class _End(NamedTuple):
    recording: Recording
    ending: Ending


class WritingThread:
    """Takes messages, and writes them in a thread of its own.

    ``begin``, ``put`` and ``end`` are for one thread, and never wait.

    Args:
        root: Folder of the episodes.
        streams: What is recorded.
        channels: The same as topics of the bag.
        options: How episodes are written.
        capacity: Bytes that may wait for the disk; what comes above that is dropped and counted.
    """

    def __init__(
        self,
        root: Path,
        streams: Sequence[Stream],
        channels: Sequence[Channel],
        options: Options,
        capacity: int,
    ) -> None:
        self._make: Callable[[Facts], EpisodeWriter] = lambda facts: EpisodeWriter(
            root, streams, channels, facts, options
        )
        self._channels = len(channels)
        self._capacity = capacity
        self._items: deque[Recording | _Message | _End] = deque()
        # Each is counted by one thread alone, so that neither needs a lock.
        self._put, self._taken = 0, 0
        self._look = threading.Event()
        self._closing = False
        self._open: Recording | None = None
        self._flushed = 0.0
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Bytes that wait for the disk."""
        return self._put - self._taken

    def begin(self, facts: Facts) -> Recording:
        """Begin an episode; one that was begun before must have been told to end."""
        recording = Recording(facts, self._channels)
        self._items.append(recording)
        self._look.set()
        return recording

    def put(self, recording: Recording, channel: int, stamp: int, data: bytes) -> None:
        """Hand over a message; a stamp before the last one's is put right.

        Args:
            recording: Where it belongs.
            channel: Index of its topic.
            stamp: Time of receipt, ns.
            data: Serialized message.
        """
        recording.received[channel] += 1
        if recording.waiting_since is None:
            recording.waiting_since = time.monotonic()
        if self._put - self._taken + len(data) > self._capacity:
            recording.dropped[channel] += 1
            return
        recording.newest = max(recording.newest, stamp)
        self._items.append(_Message(recording, channel, recording.newest, data))
        self._put += len(data)

    def end(self, recording: Recording, ending: Ending) -> None:
        """End an episode once everything before is written."""
        self._items.append(_End(recording, ending))
        self._look.set()

    def close(self, timeout: float) -> bool:
        """End the thread when the queue is empty; returns whether it did within ``timeout`` s."""
        self._closing = True
        self._look.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- in the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._closing and not self._items):
            self._look.wait(PERIOD)
            self._look.clear()
            while self._items:
                self._take(self._items.popleft())
                self._flush_in_time()
            self._flush_in_time()

    def _take(self, item: Recording | _Message | _End) -> None:
        match item:
            case _Message():
                self._taken += len(item.data)
                self._attempt(item.recording, self._write, item)
            case _End():
                self._close(item.recording, item.ending)
            case Recording():
                self._attempt(item, self._begin, item)

    def _attempt[T](self, recording: Recording, step: Callable[[T], None], argument: T) -> None:
        """What goes wrong ends the episode, never the thread."""
        try:
            step(argument)
        except Exception as error:
            recording.failure = _words(error)
            self._close(recording, Ending("unknown", recording.failure, datetime.now(UTC)))

    def _begin(self, recording: Recording) -> None:
        recording.writer = self._make(recording.facts)
        recording.folder = recording.writer.folder
        self._open = recording
        self._flushed = time.monotonic()

    def _write(self, message: _Message) -> None:
        if message.recording.writer is not None:
            message.recording.writer.write(message.channel, message.stamp, message.data)

    def _flush_in_time(self) -> None:
        now = time.monotonic()
        if self._open is not None and now - self._flushed > FLUSH:
            self._flushed = now
            self._attempt(self._open, self._flush, self._open)

    def _flush(self, recording: Recording) -> None:
        assert recording.writer is not None
        recording.writer.flush()
        recording.size = recording.writer.size
        recording.waiting_since = None

    def _close(self, recording: Recording, ending: Ending) -> None:
        writer, recording.writer, self._open = recording.writer, None, None
        if writer is not None:
            finish = writer.discard if ending.outcome == "discard" else writer.close
            try:
                recording.report = finish(ending, tuple(recording.received))
                if recording.report.ending != ending:
                    recording.failure = recording.report.ending.reason
            except Exception as error:
                recording.failure = recording.failure or _words(error)
        recording.ended.set()


def _words(error: Exception) -> str:
    """An error in one line, without the paths of this machine."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, OSError | RecordingError):
        return one_line(str(error))
    logging.getLogger(__name__).exception("an episode could not be written")
    return one_line(f"{type(error).__name__}: {error}")
