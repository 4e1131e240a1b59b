# SPDX-License-Identifier: Apache-2.0
"""What an episode is about, how it ended, and what is in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Outcome = Literal["success", "failure", "unknown", "discard"]


@dataclass(frozen=True)
class Facts:
    """What is known when an episode begins.

    Attributes:
        task: In plain words; empty for no task.
        contract: Name of the robot.
        contract_digest: Of everything its contract holds.
        git: Version of the running code, as ``code_version`` gives it.
        started: Time of day.
    """

    task: str
    contract: str
    contract_digest: str
    git: str
    started: datetime


@dataclass(frozen=True)
class Ending:
    """How an episode ended, and why in one line."""

    outcome: Outcome
    reason: str
    ended: datetime


@dataclass
class Tally:
    """What was written of one topic; times of receipt in ns."""

    messages: int = 0
    size: int = 0
    first: int = 0
    last: int = 0

    def add(self, stamp: int, size: int) -> None:
        """Count a message of ``size`` bytes; stamps never decrease."""
        if not self.messages:
            self.first = stamp
        self.messages += 1
        self.size += size
        self.last = stamp

    @property
    def rate(self) -> float:
        """Messages per second between the first and the last."""
        span = (self.last - self.first) * 1e-9
        return (self.messages - 1) / span if span > 0 else 0.0


@dataclass(frozen=True)
class TopicReport:
    """One topic of an episode; ``dropped`` counts messages that were sent and not written."""

    topic: str
    type: str
    needed: bool
    tally: Tally
    dropped: int


@dataclass(frozen=True)
class Report:
    """An episode that has ended.

    Attributes:
        name: Of its folder.
        ending: How it ended.
        topics: In the order of the channels.
    """

    name: str
    ending: Ending
    topics: Sequence[TopicReport]

    @property
    def missing(self) -> list[str]:
        """Topics without which no dataset can be made, and from which nothing arrived."""
        return [t.topic for t in self.topics if t.needed and not t.tally.messages + t.dropped]

    @property
    def span(self) -> tuple[int, int]:
        """First and last time of receipt, ns; zeros without messages."""
        tallies = [topic.tally for topic in self.topics if topic.tally.messages]
        if not tallies:
            return 0, 0
        return min(tally.first for tally in tallies), max(tally.last for tally in tallies)

    @property
    def messages(self) -> int:
        """How many were written."""
        return sum(topic.tally.messages for topic in self.topics)

    def summary(self) -> str:
        """What was recorded and what is missing, in one line."""
        first, last = self.span
        size = sum(topic.tally.size for topic in self.topics)
        kept = "discarded" if self.ending.outcome == "discard" else self.ending.outcome
        parts = [
            f"{self.name}: {kept}, {(last - first) * 1e-9:.1f} s, "
            f"{self.messages} messages, {size / 1e6:.1f} MB"
        ]
        if self.ending.reason:
            parts.append(self.ending.reason)
        if dropped := [f"{t.topic} {t.dropped}" for t in self.topics if t.dropped]:
            parts.append("dropped: " + ", ".join(dropped))
        if self.missing:
            parts.append("nothing arrived on " + ", ".join(self.missing))
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        """The report as ``episode.json`` keeps it."""
        return {
            "topics": {
                topic.topic: {
                    "type": topic.type,
                    "messages": topic.tally.messages,
                    "bytes": topic.tally.size,
                    "rate_hz": round(topic.tally.rate, 3),
                    "dropped": topic.dropped,
                }
                for topic in self.topics
            },
            "missing": self.missing,
        }
