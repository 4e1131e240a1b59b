# SPDX-License-Identifier: Apache-2.0
"""The topics that conversion reads."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from vla_nodes.contract.schema import Contract
from vla_nodes.contract.streams import JOINT_STATE
from vla_training.data.bags.bag import Topic
from vla_training.data.bags.errors import shown
from vla_training.data.conversion.actions import recorded_actions
from vla_training.data.errors import DataError


class _Need(NamedTuple):
    """A topic that a contract asks for under a key."""

    key: str
    topic: str
    type: str


def topics_of(contract: Contract) -> set[str]:
    """Topics that the frames of a contract are made of."""
    return {need.topic for need in _needs(contract)}


def check_topics(contract: Contract, topics: Mapping[str, Topic]) -> None:
    """Makes sure that a bag has what a contract needs.

    Args:
        contract: What streams there are.
        topics: Of the bag, by name.

    Raises:
        DataError: A topic is not there or has another type, or a camera gives no RGB; all that
            is wrong is named.
    """
    faults = [fault for need in _needs(contract) if (fault := _fault(need, topics))]
    faults += [
        f"cameras.{camera.name}.encoding: {camera.encoding} is depth, which no dataset holds; "
        "leave the camera out"
        for camera in contract.cameras
        if camera.encoding == "16UC1"
    ]
    if faults:
        raise DataError("; ".join(faults))


def _needs(contract: Contract) -> Iterator[_Need]:
    for camera in contract.cameras:
        yield _Need(f"cameras.{camera.name}", camera.topic, camera.type)
    for state in contract.states:
        yield _Need(f"states.{state.name}", state.topic, JOINT_STATE)
    for action in contract.actions:
        recorded = recorded_actions(action)
        key = f"actions.{action.name}" + (".recorded" if action.recorded else "")
        yield _Need(key, recorded.topic, recorded.type)


def _fault(need: _Need, topics: Mapping[str, Topic]) -> str:
    """What is wrong with the topic that serves a need; empty where nothing is."""
    topic = topics.get(need.topic)
    if topic is None:
        fault = f"{need.key}.topic: {need.topic} is not in the bag"
        near = _near(need, topics)
        return f"{fault}; did you mean {' or '.join(map(shown, near))}?" if near else fault
    if topic.type != need.type:
        return f"{need.key}.type: {need.topic} is {shown(topic.type)}, expected {need.type}"
    return "" if topic.count else f"{need.key}.topic: {need.topic} has no messages"


def _near(need: _Need, topics: Mapping[str, Topic]) -> list[str]:
    """Up to three topics that may have been meant: alike in name, or the only one of its type."""
    alike = get_close_matches(need.topic, topics, n=3, cutoff=0.6)
    of_type = [name for name, topic in topics.items() if topic.type == need.type]
    return alike or (of_type if len(of_type) <= 3 else [])
