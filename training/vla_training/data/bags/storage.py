# SPDX-License-Identifier: Apache-2.0
"""What the files of a bag have in common, whatever their format."""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rosbags.interfaces import MessageDefinition

GIB = 1 << 30
SIZE_LIMIT = GIB  # bytes of one chunk or message, uncompressed


@dataclass(frozen=True)
class Stream:
    """Messages of one topic in one file.

    Attributes:
        id: In that file.
        topic: Its name.
        type: Such as ``sensor_msgs/msg/Image``.
        encoding: ``cdr`` in ROS 2, ``ros1`` in ROS 1.
        definition: Of the type, as the file carries it.
        count: Messages.
    """

    id: int
    topic: str
    type: str
    encoding: str
    definition: MessageDefinition
    count: int


class Raw(NamedTuple):
    """A serialized message."""

    receive: int
    stream: int
    data: bytes | memoryview


class Storage(Protocol):
    """One open file of a bag.

    Attributes:
        streams: What it holds.
        start: Time of receipt of the first message, ns; 0 without messages.
        end: One past that of the last.
    """

    streams: list[Stream]
    start: int
    end: int

    @property
    def notes(self) -> Sequence[str]:
        """What was lost, in words; may grow while messages are read."""
        ...

    def read(self, streams: Collection[int], start: int, stop: int) -> Iterator[Raw]:
        """Messages of the streams received in [start, stop), in order of receipt."""
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


@dataclass(order=True)
class _Run[T]:
    """A source that was opened; sorts by the time of its next item."""

    time: int
    order: int
    item: T = field(compare=False)
    rest: Iterator[tuple[int, T]] = field(compare=False)


def merge[T](
    sources: Iterable[tuple[int, Callable[[], Iterator[tuple[int, T]]]]],
) -> Iterator[T]:
    """Merges by time, and opens each source only when its time has come.

    Args:
        sources: (time of the first item, what opens it to items with their time), in order
            of that time; items of one time come in the order of their sources.
    """
    runs: list[_Run[T]] = []
    for order, (start, opened) in enumerate(sources):
        yield from _advance(runs, start)
        rest = opened()
        if first := next(rest, None):
            heapq.heappush(runs, _Run(first[0], order, first[1], rest))
    yield from _advance(runs, None)


def _advance[T](runs: list[_Run[T]], stop: int | None) -> Iterator[T]:
    """Items before ``stop``, or all of them."""
    while runs and (stop is None or runs[0].time < stop):
        run = runs[0]
        yield run.item
        following = next(run.rest, None)
        if following is None:
            heapq.heappop(runs)
        else:
            run.time, run.item = following
            heapq.heapreplace(runs, run)
