# SPDX-License-Identifier: Apache-2.0
"""Bringing nodes up and back, a bounded number of times; the nodes are played by the test."""

from unittest.mock import MagicMock

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.task import Future
from vla_interfaces.msg import Heartbeat

from vla_nodes.nodes.lifecycle_manager import LifecycleManager, Patience

PATIENCE = Patience(heartbeat=1.0, progress=2.0, transition=5.0, window=60.0, restarts=2)
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE


class Nodes:
    """The managed nodes: they answer requests when told to, and beat."""

    def __init__(self, *names: str, optional: tuple[str, ...] = ()) -> None:
        self.now = 100.0
        self.asked: list[tuple[str, int]] = []
        self.futures: dict[str, Future] = {}
        self.instances = dict.fromkeys(names, 1)
        node = MagicMock()
        node.get_namespace.return_value = "/"
        node.create_client = self._client
        self.manager = LifecycleManager(node, names, optional, PATIENCE)

    def _client(self, kind: type, service: str) -> MagicMock:
        assert kind is ChangeState
        name = service.split("/")[0]

        def call(request: ChangeState.Request) -> Future:
            self.asked.append((name, request.transition.id))
            self.futures[name] = Future()
            return self.futures[name]

        client = MagicMock()
        client.call_async = call
        return client

    def beat(self, name: str, state: int, **fields: object) -> None:
        message = Heartbeat(node=f"/{name}", instance=self.instances[name], state=state, **fields)
        self.manager.heard(message, self.now)

    def answer(self, name: str, success: bool = True) -> None:
        self.futures[name].set_result(ChangeState.Response(success=success))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.manager.tick(self.now)

    def bring_up(self, name: str) -> None:
        for state in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE):
            self.beat(name, state)
            self.tick(0.3)
            self.answer(name)
            self.tick()
        self.beat(name, State.PRIMARY_STATE_ACTIVE, progress=1)


def test_nodes_are_brought_up_one_after_the_other() -> None:
    nodes = Nodes("first", "second")
    nodes.beat("second", State.PRIMARY_STATE_UNCONFIGURED)
    nodes.tick()
    assert nodes.asked == []
    nodes.bring_up("first")
    assert nodes.asked == [("first", CONFIGURE), ("first", ACTIVATE)]
    nodes.tick()
    assert nodes.asked[2:] == [("second", CONFIGURE)]
    assert nodes.manager.problem("first", nodes.now) == ""


def test_a_heartbeat_that_the_answer_overtook_asks_for_nothing_twice() -> None:
    nodes = Nodes("node")
    nodes.beat("node", State.PRIMARY_STATE_INACTIVE)
    nodes.tick()
    nodes.answer("node")
    nodes.tick()
    nodes.beat("node", State.PRIMARY_STATE_INACTIVE)
    nodes.tick(0.05)
    nodes.beat("node", State.PRIMARY_STATE_ACTIVE)
    nodes.tick(0.5)
    assert nodes.asked == [("node", ACTIVATE)]


def test_a_node_that_waits_for_something_is_not_asked_and_says_for_what() -> None:
    nodes = Nodes("node")
    nodes.beat("node", State.PRIMARY_STATE_INACTIVE, waiting_for="a camera")
    nodes.tick()
    assert nodes.asked == []
    assert nodes.manager.problem("node", nodes.now) == "node waits for a camera"


@pytest.mark.parametrize("end", ["process", "failure"])
def test_a_node_that_keeps_dying_is_given_up_after_its_restarts_with_growing_pauses(
    end: str,
) -> None:
    nodes = Nodes("node")
    nodes.bring_up("node")
    pauses = []
    for _ in range(PATIENCE.restarts):
        if end == "process":
            nodes.instances["node"] += 1
        nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED, fault="it broke")
        died, asked = nodes.now, len(nodes.asked)
        for _ in range(50):
            if len(nodes.asked) > asked:
                break
            nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED, fault="it broke")
            nodes.tick(0.1)
        pauses.append(nodes.now - died)
        nodes.answer("node")
        nodes.tick(0.3)
        nodes.beat("node", State.PRIMARY_STATE_ACTIVE, progress=1)
    nodes.instances["node"] += end == "process"
    nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED, fault="it broke")
    asked = len(nodes.asked)
    for _ in range(100):
        nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED)
        nodes.tick(0.1)
    assert len(nodes.asked) == asked
    assert "was given up" in nodes.manager.problem("node", nodes.now)
    assert pauses == pytest.approx([0.5, 1.0], abs=0.15)
    # Mended by hand, it counts again.
    nodes.beat("node", State.PRIMARY_STATE_ACTIVE, progress=2)
    assert nodes.manager.problem("node", nodes.now) == ""


def test_silence_and_standstill_are_problems_and_a_transition_is_one_too() -> None:
    nodes = Nodes("node")
    assert nodes.manager.problem("node", nodes.now) == "node has not been heard of"
    nodes.bring_up("node")
    assert nodes.manager.problem("node", nodes.now + 1.1) == "node has been silent for 1.1 s"
    for _ in range(22):
        nodes.now += 0.1
        nodes.beat("node", State.PRIMARY_STATE_ACTIVE, progress=1)
    assert "no progress for 2.2 s" in nodes.manager.problem("node", nodes.now)
    nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED)
    nodes.tick(0.9)
    assert nodes.manager.problem("node", nodes.now) == "node is in transition"


def test_an_optional_node_does_not_hold_up_those_behind_it() -> None:
    nodes = Nodes("watcher", "worker", optional=("watcher",))
    nodes.beat("worker", State.PRIMARY_STATE_UNCONFIGURED)
    nodes.tick()
    assert nodes.asked == [("worker", CONFIGURE)]


def test_a_transition_without_an_answer_is_tried_again_after_its_time() -> None:
    nodes = Nodes("node")
    for seconds in (0.0, 5.1, 0.6):
        nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED)
        nodes.tick(seconds)
        nodes.beat("node", State.PRIMARY_STATE_UNCONFIGURED)
    nodes.tick()
    assert nodes.asked == [("node", CONFIGURE), ("node", CONFIGURE)]
