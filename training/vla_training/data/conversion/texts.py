# SPDX-License-Identifier: Apache-2.0
"""What is said in words: task and subtask, when each was in force, and the outcome."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from unicodedata import category

from vla_training.data.bags.bag import Bag, BagError
from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.schema import Outcome
from vla_training.data.stamps import message_stamp

DISCARD = "discard"
"""The outcome of an episode that is to be left out."""

MAX_LENGTH = 512
"""Characters of a task or subtask, as in the messages of the graph."""

_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line separators
_FIELDS = {
    "std_msgs/msg/String": "data",
    "vla_interfaces/msg/Task": "text",
    "vla_interfaces/msg/Subtask": "subtask",
}


def check_text(text: object, where: str) -> str:
    """Strips a task or subtask; it may be empty.

    Args:
        text: From outside.
        where: To name in the error.

    Raises:
        DataError: Not a text, too long, or with control characters.
    """
    if not isinstance(text, str):
        raise DataError(f"{where} is {shown(text)}, expected a text")
    if len(text) > MAX_LENGTH:
        raise DataError(f"{where} has {len(text)} characters, expected at most {MAX_LENGTH}")
    stripped = text.strip()
    # What joins letters or emoji, or spaces them, is part of a text as the contract has it too.
    if any(category(character) in _CONTROL for character in stripped):
        raise DataError(f"{where} is '{shown(stripped)}', expected no control characters")
    return stripped


def check_outcome(word: object, where: str) -> str:
    """Strips an outcome: one of ``Outcome`` in small letters, ``discard``, or nothing.

    Raises:
        DataError: Something else.
    """
    words = ["", *(outcome.name.lower() for outcome in Outcome), DISCARD]
    if not isinstance(word, str) or word.strip() not in words:
        raise DataError(f"{where} is '{shown(word)}', expected {', '.join(words[1:])}")
    return word.strip()


class Texts:
    """Texts, each in force from its time until the next one's.

    Args:
        entries: (time in ns, text); of several at one time the last counts.
    """

    def __init__(self, entries: Iterable[tuple[int, str]] = ()) -> None:
        ordered = sorted(entries, key=lambda entry: entry[0])
        self._times = [time for time, _ in ordered]
        self._texts = [text for _, text in ordered]

    def at(self, time: int) -> str:
        """The text in force at that time; empty before the first."""
        place = bisect_right(self._times, time)
        return self._texts[place - 1] if place else ""

    def longest(self, start: int, stop: int) -> str:
        """The text that was in force for most of a stretch; empty where there was none.

        Neither the first nor the last will do: who publishes a task and begins an episode
        does so in either order.
        """
        shares: Counter[str] = Counter()
        ends = [*self._times[1:], stop][: len(self._times)]
        for text, begin, end in zip(self._texts, self._times, ends, strict=True):
            shares[text] += max(0, min(end, stop) - max(begin, start))
        del shares[""]
        return max(shares, key=lambda text: shares[text]) if shares.total() else ""


def has_texts(bag: Bag, topic: str) -> bool:
    """Whether a bag has a topic, and one of texts."""
    return topic in bag.topics and bag.topics[topic].type in _FIELDS


def check_text_topic(bag: Bag, topic: str) -> None:
    """Makes sure of it.

    Raises:
        BagError: No such topic, or another type.
    """
    if topic not in bag.topics:
        raise BagError(f"{bag.path}: {topic} is not in the bag")
    if not has_texts(bag, topic):
        kind = shown(bag.topics[topic].type)
        raise BagError(f"{bag.path}: {topic} is {kind}, expected {' or '.join(_FIELDS)}")


def read_texts(bag: Bag, topic: str, stamped: bool, stop: int | None = None) -> Texts:
    """Reads the texts of a topic.

    Args:
        bag: Where to read.
        topic: Of ``std_msgs/msg/String``, ``vla_interfaces/msg/Task`` or ``.../Subtask``.
        stamped: Date them by their header's stamp where there is one, otherwise by receipt.
        stop: First time of receipt that is not read, ns; None for all.

    Raises:
        BagError: No such topic, another type, or a text that cannot be used.
    """
    check_text_topic(bag, topic)
    field = _FIELDS[bag.topics[topic].type]
    entries = []
    for receive, _, message in bag.messages([topic], None, stop):
        try:
            text = check_text(getattr(message, field), f"{bag.path}: a text on {topic}")
        except DataError as error:
            raise BagError(str(error)) from error
        stamp = message_stamp(message) if stamped else None
        entries.append((stamp or receive, text))
    return Texts(entries)
