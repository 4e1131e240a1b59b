# SPDX-License-Identifier: Apache-2.0
"""One episode after the other: which is being recorded, which are being closed, what went wrong."""

import time
from datetime import UTC, datetime

from vla_nodes.recording.errors import one_line
from vla_nodes.recording.report import Ending, Facts, Outcome
from vla_nodes.recording.writing_thread import Recording, WritingThread

STUCK = 4.0  # s without growth of a file while messages come


class Episodes:
    """Begins and ends episodes; for the thread that puts messages.

    Args:
        writing: Writes them.
        contract: Name of the robot.
        contract_digest: Of its contract.
        git: Version of the running code.

    Attributes:
        current: The one being recorded, or None.
        last: What became of the one that was closed last, in one line.
    """

    def __init__(
        self, writing: WritingThread, contract: str, contract_digest: str, git: str
    ) -> None:
        self._writing = writing
        self._about = (contract, contract_digest, git)
        self._closing: list[Recording] = []
        self._failure = ""
        self.current: Recording | None = None
        self.last = ""

    def begin(self, task: str) -> Recording:
        """Begin an episode; none may be going on."""
        assert self.current is None
        self.current = self._writing.begin(Facts(task, *self._about, datetime.now(UTC)))
        return self.current

    def put(self, channel: int, stamp: int, data: bytes) -> None:
        """Hand a message to the present episode; nothing happens where there is none."""
        if self.current is not None:
            self._writing.put(self.current, channel, stamp, data)

    def lose(self, channel: int, count: int) -> None:
        """Count messages of the present episode that were sent and never came."""
        if self.current is not None:
            self.current.received[channel] += count
            self.current.dropped[channel] += count

    def finish(self, outcome: Outcome, reason: str) -> Recording:
        """End the present episode; it is closed once the disk has taken it."""
        assert self.current is not None
        recording, self.current = self.current, None
        self._writing.end(recording, Ending(outcome, one_line(reason), datetime.now(UTC)))
        self._closing.append(recording)
        return recording

    def look(self) -> list[Recording]:
        """Those that were closed since the last look, by ``finish`` or by a failure."""
        if self.current is not None and self.current.ended.is_set():
            self._closing.append(self.current)
            self.current = None
        elif self.current is not None and self.current.folder is not None:
            self._failure = ""
        closed = [recording for recording in self._closing if recording.ended.is_set()]
        for recording in closed:
            self._closing.remove(recording)
            self.last = summary(recording)
            self._failure = self.last if recording.failure else ""
        return closed

    def wait(self, timeout: float) -> list[Recording]:
        """Wait up to ``timeout`` seconds for all to be closed; returns those that are not."""
        until = time.monotonic() + timeout
        return [r for r in self._closing if not r.ended.wait(max(0.0, until - time.monotonic()))]

    def fault(self) -> str:
        """A file that does not grow, or why the last episode failed; empty when all is well."""
        now = time.monotonic()
        for recording in (*self._closing, *([self.current] if self.current else [])):
            if (seconds := recording.stuck(now)) > STUCK:
                return f"{recording.name} has not grown for {seconds:.0f} s"
        return self._failure


def summary(recording: Recording) -> str:
    """What became of an episode, in one line."""
    if recording.report is not None:
        return recording.report.summary()
    if recording.ended.is_set():
        return f"{recording.name}: {recording.failure}"
    return f"{recording.name}: the disk has not answered yet"
