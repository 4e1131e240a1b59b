# SPDX-License-Identifier: Apache-2.0
"""One pass over a bag: what the checks need of every message, as arrays."""

from array import array
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_nodes.contract.schema import Contract
from vla_training.data.bags.bag import Bag
from vla_training.data.checks.joint_logs import (
    JointLog,
    Times,
    in_order,
)
from vla_training.data.checks.joint_streams import action_streams, state_streams
from vla_training.data.checks.picture_logs import PictureLog
from vla_training.data.stamps import message_stamp


class StampLog:
    """When the messages of a topic were stamped and received.

    Args:
        timeline: Of the contract.
    """

    def __init__(self, timeline: str) -> None:
        self._by_receipt = timeline == "receive"
        self._receive, self._stamp = array("q"), array("q")

    def add(self, receive: int, message: Any) -> None:
        """Takes one message in; without a header it is dated by its receipt."""
        stamp = None if self._by_receipt else message_stamp(message)
        self._receive.append(receive)
        self._stamp.append(receive if stamp is None else stamp)

    @property
    def receives(self) -> Times:
        """(N,) ns."""
        return np.frombuffer(self._receive, np.int64)

    @property
    def stamps(self) -> Times:
        """(N,) ns on the contract's timeline."""
        return np.frombuffer(self._stamp, np.int64)

    @property
    def rising(self) -> Times:
        """(M,) ns: the stamps that can be believed, strictly rising."""
        return self.stamps[in_order(self.stamps, self.receives)]


@dataclass(frozen=True)
class Recording:
    """A bag, seen through a contract.

    Attributes:
        start: First time of receipt, ns; times are told from here.
        stamps: By topic.
        states: In the contract's order.
        actions: In the contract's order.
        pictures: By camera.
    """

    start: int
    stamps: dict[str, StampLog]
    states: list[JointLog]
    actions: list[JointLog]
    pictures: dict[str, PictureLog]

    def when(self, stamp: int | np.integer) -> str:
        """A time in words, from the start of the bag."""
        return f"{(int(stamp) - self.start) * 1e-9:.3f} s"


def read_recording(bag: Bag, contract: Contract) -> Recording:
    """Reads every message of the contract's topics once.

    Topics whose type is not the contract's are left out.

    Raises:
        BagError: The bag cannot be read.
    """
    timeline = contract.timeline
    recording = Recording(
        start=bag.start,
        stamps={},
        states=[JointLog(stream, timeline) for stream in state_streams(contract)],
        actions=[JointLog(stream, timeline) for stream in action_streams(contract)],
        pictures={
            camera.name: PictureLog(
                camera,
                timeline,
                bag.topics[camera.topic].count if camera.topic in bag.topics else 0,
            )
            for camera in contract.cameras
        },
    )
    takers: dict[str, list[Callable[[int, Any], None]]] = defaultdict(list)
    logs = [*recording.states, *recording.actions]
    wanted = [(log.stream.topic, log.stream.type, log.add) for log in logs]
    wanted += [(p.camera.topic, p.camera.type, p.add) for p in recording.pictures.values()]
    for topic, kind, add in wanted:
        if topic in bag.topics and bag.topics[topic].type == kind:
            if topic not in takers:
                recording.stamps[topic] = StampLog(timeline)
                takers[topic].append(recording.stamps[topic].add)
            takers[topic].append(add)
    for receive, topic, message in bag.messages(takers.keys()):
        for take in takers[topic]:
            take(receive, message)
    for log in recording.pictures.values():
        log.finish()
    return recording
