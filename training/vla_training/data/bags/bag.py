# SPDX-License-Identifier: Apache-2.0
"""Bags: what they hold, and their messages in order of receipt."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from vla_training.data.bags.errors import BagError, bag_errors, shown
from vla_training.data.bags.files import open_file
from vla_training.data.bags.finding import find_bags
from vla_training.data.bags.folder import read_folder
from vla_training.data.bags.message_types import Decoder, decoder
from vla_training.data.bags.storage import Storage, merge

__all__ = ["Bag", "BagError", "Sample", "Topic", "find_bags", "open_bag", "read_bags"]

_LAST = (1 << 63) - 1


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: Such as ``/joint_states``.
        type: Such as ``sensor_msgs/msg/JointState``.
        count: Messages.
    """

    name: str
    type: str
    count: int


class Sample(NamedTuple):
    """A message as it was recorded.

    Attributes:
        receive: Time of receipt, ns.
        topic: Name.
        message: Its fields are attributes, arrays of numbers are numpy's and read-only.
    """

    receive: int
    topic: str
    message: Any


@dataclass
class _Damage:
    """Messages of a topic that could not be deserialized; each counts once, however often read."""

    first: str
    count: int = 0
    last: int = -1

    def add(self, receive: int) -> None:
        if receive > self.last:
            self.count += 1
            self.last = receive


class Bag:
    """A bag that is open; a context manager.

    A message that cannot be deserialized is left out, as if it had never arrived. So are the
    messages of a damaged chunk. Both are noted: ``notes`` is complete when all was read.

    Attributes:
        path: Of the folder or file; of the first where several are read together.
        topics: By name.
        start: Time of receipt of the first message, ns; 0 without messages.
        end: One past that of the last.
        custom: Facts that the recording states of itself: ``custom_data`` of its metadata.
    """

    def __init__(
        self,
        path: Path,
        storages: Sequence[Storage],
        custom: Mapping[str, str],
        notes: Sequence[str],
        resources: ExitStack,
    ) -> None:
        self.path = path
        self.custom = custom
        self._storages = storages
        self._notes = notes
        self._resources = resources
        self._damage: dict[str, _Damage] = {}
        filled = [s for s in storages if s.end]
        self.start = min((s.start for s in filled), default=0)
        self.end = max((s.end for s in filled), default=0)
        self.topics = self._find_topics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files."""
        self._resources.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was lost, in words; grows while messages are read."""
        damage = (
            f"{shown(topic)}: {damage.count} messages are left out, the first {damage.first}"
            for topic, damage in self._damage.items()
        )
        return (*self._notes, *(n for s in self._storages for n in s.notes), *damage)

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Sample]:
        """Messages in order of receipt, deserialized.

        Args:
            topics: Those to read; one that the bag lacks has no messages.
            start: First time of receipt, ns; None from the beginning.
            stop: First time of receipt that is not read; None to the end.

        Raises:
            BagError: A topic has an unknown type, or more than one; the file cannot be read.
        """
        first = 0 if start is None else int(start)
        last = _LAST if stop is None else int(stop)
        sources = []
        for storage in sorted(self._storages, key=lambda s: s.start):
            decoders = self._decoders(storage, topics)
            if decoders and storage.start < last and first < storage.end:
                read = partial(self._read, storage, decoders, first, last)
                sources.append((max(first, storage.start), read))
        return merge(sources)

    def _decoders(
        self, storage: Storage, topics: Collection[str]
    ) -> dict[int, tuple[str, Decoder]]:
        decoders = {}
        for stream in storage.streams:
            if stream.topic in topics and stream.count:
                known = self.topics[stream.topic].type
                if stream.type != known:
                    raise BagError(
                        f"{shown(self.path, 500)}: topic {shown(stream.topic)} has messages of "
                        f"{shown(known)} and of {shown(stream.type)}, expected one type"
                    )
                decoders[stream.id] = (stream.topic, decoder(stream, self.path))
        return decoders

    def _read(
        self, storage: Storage, decoders: Mapping[int, tuple[str, Decoder]], start: int, stop: int
    ) -> Iterator[tuple[int, Sample]]:
        for receive, stream, data in storage.read(decoders.keys(), start, stop):
            topic, decode = decoders[stream]
            try:
                message = decode(data)
            except BagError as error:
                damage = self._damage.setdefault(topic, _Damage(f"at {receive} ns: {error}"))
                damage.add(receive)
            else:
                yield receive, Sample(receive, topic, message)

    def _find_topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        streams = [stream for storage in self._storages for stream in storage.streams]
        # A stream without messages does not decide what type a topic has.
        for stream in sorted(streams, key=lambda s: (s.topic, not s.count)):
            known = topics.get(stream.topic)
            topics[stream.topic] = Topic(
                stream.topic,
                known.type if known else stream.type,
                stream.count + (known.count if known else 0),
            )
        return topics


def open_bag(path: Path) -> Bag:
    """Opens a folder of rosbag2, or a single ``.mcap``, ``.db3`` or ``.bag`` file.

    A bag that was cut short is read as far as it goes; ``Bag.notes`` says how far.

    Args:
        path: Of the folder or file.

    Raises:
        BagError: Not a bag, or damaged beyond use.
    """
    return read_bags([path])


def read_bags(paths: Sequence[Path]) -> Bag:
    """Opens several bags as one, merged by time of receipt.

    Args:
        paths: As for ``open_bag``; where two state the same fact, the first counts.

    Raises:
        BagError: One of them is not a bag, or damaged beyond use.
    """
    if not paths:
        raise BagError("no bag was given, expected at least one")
    storages: list[Storage] = []
    custom: dict[str, str] = {}
    notes: list[str] = []
    with ExitStack() as stack:
        for path in map(Path, paths):
            with bag_errors(path):
                if not path.exists():
                    raise BagError(f"{shown(path, 500)} does not exist")
                if path.is_dir():
                    folder = read_folder(path)
                    custom = {**folder.custom, **custom}
                    notes += folder.notes
                    storages += _open_all(folder.files, notes, stack)
                else:
                    storages.append(open_file(path, stack, notes))
        bag = Bag(Path(paths[0]), storages, custom, notes, stack.pop_all())
    return bag


def _open_all(files: Sequence[Path], notes: list[str], stack: ExitStack) -> list[Storage]:
    """Opens what can be opened of the files of one bag, and notes the rest."""
    storages: list[Storage] = []
    refusals: list[BagError] = []
    for file in files:
        try:
            storages.append(open_file(file, stack, notes))
        except BagError as error:
            refusals.append(error)
    if not storages:
        raise refusals[0]
    notes += [f"left out: {refusal}" for refusal in refusals]
    return storages
