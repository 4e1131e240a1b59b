# SPDX-License-Identifier: Apache-2.0
"""The topics that conversion reads."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from vla_nodes.contract.schema import Contract
from vla_nodes.contract.streams import JOINT_STATE
from vla_training.data.bags.bag import Topic
from vla_training.data.bags.errors import shown
from vla_training.data.errors import DataError
from vla_training.data.frames.actions import recorded_actions


class Source(NamedTuple):
    """A stream that a contract asks for.

    Attributes:
        name: Of the camera or state; ``actions.NAME``.
        key: Of the contract.
        topic: Where it is.
        type: Of its messages.
        max_age: Seconds.
    """

    name: str
    key: str
    topic: str
    type: str
    max_age: float


def topics_of(contract: Contract) -> set[str]:
    """Topics that the frames of a contract are made of."""
    return {source.topic for source in sources(contract)}


def reference_topic(contract: Contract) -> str:
    """Topic of the stream whose stamps begin a grid."""
    return next(s.topic for s in sources(contract) if s.name == contract.reference)


def check_topics(contract: Contract, topics: Mapping[str, Topic]) -> None:
    """Makes sure that a bag has what a contract needs.

    Args:
        contract: What streams there are.
        topics: Of the bag, by name.

    Raises:
        DataError: A topic is not there or has another type, or a camera gives no RGB; all that
            is wrong is named.
    """
    faults = [fault for source in sources(contract) if (fault := _fault(source, topics))]
    faults += [
        f"cameras.{camera.name}.encoding: {camera.encoding} is depth, which no dataset holds; "
        "leave the camera out"
        for camera in contract.cameras
        if camera.encoding == "16UC1"
    ]
    if faults:
        raise DataError("; ".join(faults))


def sources(contract: Contract) -> Iterator[Source]:
    """The streams of a contract as they are in a bag."""
    for camera in contract.cameras:
        key = f"cameras.{camera.name}"
        yield Source(camera.name, key, camera.topic, camera.type, camera.max_age)
    for state in contract.states:
        yield Source(state.name, f"states.{state.name}", state.topic, JOINT_STATE, state.max_age)
    for action in contract.actions:
        recorded, name = recorded_actions(action), f"actions.{action.name}"
        key = f"{name}.recorded" if action.recorded else name
        yield Source(name, key, recorded.topic, recorded.type, recorded.max_age)


def _fault(source: Source, topics: Mapping[str, Topic]) -> str:
    """What is wrong with the topic of a stream; empty where nothing is."""
    topic = topics.get(source.topic)
    if topic is None:
        fault = f"{source.key}.topic: {source.topic} is not in the bag"
        near = _near(source, topics)
        return f"{fault}; did you mean {' or '.join(map(shown, near))}?" if near else fault
    if topic.type != source.type:
        return f"{source.key}.type: {source.topic} is {shown(topic.type)}, expected {source.type}"
    return "" if topic.count else f"{source.key}.topic: {source.topic} has no messages"


def _near(source: Source, topics: Mapping[str, Topic]) -> list[str]:
    """Up to three topics that may have been meant: alike in name, or the only one of its type."""
    alike = get_close_matches(source.topic, topics, n=3, cutoff=0.6)
    of_type = [name for name, topic in topics.items() if topic.type == source.type]
    return alike or (of_type if len(of_type) <= 3 else [])
