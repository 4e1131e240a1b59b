# SPDX-License-Identifier: Apache-2.0
"""The policy node, one step at a time; observations and the policy are the test's own."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import rclpy
from vla_interfaces.msg import Task, ValueEstimate

from vla_nodes.bringup.graph import find_contract
from vla_nodes.inference import ActionPlan, PolicyError
from vla_nodes.nodes import policy as module
from vla_nodes.nodes.diagnostics import WARN
from vla_nodes.nodes.policy import PolicyNode
from vla_nodes.nodes.policy_parameters import PolicyParameters
from vla_nodes.nodes.stamps import time_message
from vla_nodes.observation.observation import Observation

SECOND = 10**9


class FakePolicy:
    """Records calls; ``during`` runs within a call of that name."""

    extra_states = ()

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.during: dict[str, Callable[[], None]] = {}
        self.subtask = "wave"

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.during.get(name, lambda: None)()

    def reset(self) -> None:
        self._call("reset")

    def plan_subtask(self, *_: object) -> str:
        self._call("plan")
        return self.subtask

    def act(self, *_: object) -> ActionPlan:
        self._call("act")
        return ActionPlan(np.zeros((4, 6)))


class Rig:
    """A configured node whose publishers are lists."""

    def __init__(self, node: PolicyNode, policy: FakePolicy) -> None:
        self.node, self.policy = node, policy
        self.stop = threading.Event()
        self.now = 100 * SECOND
        self.chunks: list = []
        self.subtasks: list = []
        node._chunks = self  # type: ignore[assignment]
        node._subtasks = self  # type: ignore[assignment]
        node._assembler.latest = lambda _: Observation(self.now, {}, np.zeros(6), {}, {}, {})

    def publish(self, message: object) -> None:
        kind = self.subtasks if hasattr(message, "task") else self.chunks
        kind.append(message)

    def give(self, goal: int) -> None:
        self.node._on_task(Task(goal=goal, text="tidy"))

    def step(self, seconds: float = 0.2) -> None:
        self.now += round(seconds * SECOND)
        self.node._step(self.node._task, self.stop)

    def chosen(self) -> list[str]:
        calls, self.policy.calls = self.policy.calls, []
        return calls


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr(module, "load_policy", lambda *_: FakePolicy())
    rclpy.init()
    node = PolicyNode()
    node.parameters = PolicyParameters(contract=str(find_contract("sim_arm")))
    node.configure(node.parameters)
    yield Rig(node, node._policy)
    node.destroy_node()
    rclpy.shutdown()


def test_a_new_goal_begins_afresh_and_the_planner_looks_again_when_it_is_due(rig: Rig) -> None:
    rig.give(1)
    rig.step()
    assert rig.chosen() == ["reset", "plan", "act"]
    rig.step(0.5)
    assert rig.chosen() == ["act"]
    rig.step(0.6)
    assert rig.chosen() == ["plan", "act"]
    rig.give(2)
    rig.step()
    assert rig.chosen() == ["reset", "plan", "act"]
    assert [chunk.goal for chunk in rig.chunks] == [1, 1, 1, 2]
    assert [(subtask.goal, subtask.subtask) for subtask in rig.subtasks] == [
        (1, "wave"),
        (2, "wave"),
    ]


def test_a_goal_that_comes_while_the_planner_thinks_ends_the_old_ones_work(rig: Rig) -> None:
    rig.give(1)
    rig.policy.during["plan"] = lambda: rig.give(2)
    rig.step()
    assert rig.chosen() == ["reset", "plan"]
    assert not rig.subtasks
    assert not rig.chunks
    rig.policy.during.clear()
    rig.step()
    assert rig.chosen() == ["reset", "plan", "act"]
    assert [chunk.goal for chunk in rig.chunks] == [2]


@pytest.mark.parametrize("call", ["plan", "act"])
def test_nothing_is_published_after_deactivation(rig: Rig, call: str) -> None:
    rig.give(1)
    rig.policy.during[call] = rig.stop.set
    rig.step()
    assert rig.chosen()[-1] == call
    assert not rig.chunks
    assert len(rig.subtasks) == (call == "act")


def test_after_activation_nothing_continues_what_was_never_published(rig: Rig) -> None:
    rig.give(1)
    rig.policy.during["act"] = rig.stop.set
    rig.step()
    rig.policy.during.clear()
    rig.chosen()
    rig.stop.clear()
    rig.node._work = lambda _: None  # type: ignore[method-assign]
    rig.node.activate()
    rig.step()
    assert rig.chosen() == ["reset", "plan", "act"]


def test_a_policy_that_fails_after_deactivation_does_not_fail_the_node(rig: Rig) -> None:
    def fail() -> None:
        rig.stop.set()
        raise RuntimeError("the device is gone")

    rig.give(1)
    rig.policy.during["act"] = fail
    rig.node._work(rig.stop)
    assert rig.chosen()[-1] == "act"
    assert not rig.node._failure


def test_a_policy_that_raises_in_the_middle_fails_the_node(rig: Rig) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    rig.give(1)
    rig.policy.during["act"] = fail
    rig.node._work(rig.stop)  # comes back
    assert "out of memory" in rig.node._failure
    assert not rig.chunks


def test_a_task_that_the_policy_cannot_do_is_tried_once(rig: Rig) -> None:
    def refuse() -> None:
        rig.stop.set()
        raise PolicyError("no such cube")

    rig.give(1)
    rig.policy.during["plan"] = refuse
    rig.node._work(rig.stop)
    assert rig.node.working_fault() == "no such cube"
    rig.stop.clear()
    rig.chosen()
    rig.step()
    assert not rig.chosen()
    rig.policy.during.clear()
    rig.give(2)
    rig.step()
    assert rig.chosen() == ["reset", "plan", "act"]
    assert not rig.node.working_fault()


@pytest.mark.parametrize("back", [0.05, 50.0])
def test_a_clock_that_goes_back_does_not_stop_the_chunks(rig: Rig, back: float) -> None:
    rig.give(1)
    rig.step()
    rig.step(-back)
    rig.step()
    assert [chunk.goal for chunk in rig.chunks] == [1, 1, 1]


def test_a_planner_that_finds_nothing_left_to_do_is_in_the_diagnostics(rig: Rig) -> None:
    rig.give(1)
    rig.policy.subtask = ""
    rig.step()
    health = rig.node.health()
    assert health.level == WARN
    assert "planner" in health.message
    rig.policy.subtask = "wave"
    rig.step(2.0)
    assert "planner" not in rig.node.health().message


def test_the_planners_time_is_in_the_diagnostics(rig: Rig) -> None:
    rig.give(1)
    rig.step()
    rig.step()
    values = rig.node.health().values
    assert values["planner_latency_p50_ms"] >= 0.0
    assert values["chunk_latency_p50_ms"] >= 0.0


def test_cleaned_up_the_policy_is_let_go_before_another_is_loaded(rig: Rig) -> None:
    policy = weakref.ref(rig.policy)
    rig.policy = None  # type: ignore[assignment]
    rig.node.cleanup()
    gc.collect()
    assert policy() is None


@pytest.mark.parametrize("event", ["stalled", "dropped", "subtask_finished"])
def test_the_planner_looks_again_when_an_event_begins_and_not_while_it_lasts(
    rig: Rig, event: str
) -> None:
    def tell(goal: int = 1, subtask: str = "wave", **events: bool) -> list[str]:
        rig.node._on_value(ValueEstimate(goal=goal, subtask=subtask, **events))
        rig.step(0.15)
        return rig.chosen()

    rig.give(1)
    rig.step()
    assert rig.chosen() == ["reset", "plan", "act"]
    assert tell() == ["act"]
    assert tell(goal=2, **{event: True}) == ["act"]
    assert tell(**{event: True}) == ["plan", "act"]
    assert tell(**{event: True}) == ["act"]
    assert tell() == ["act"]
    assert tell(**{event: True}) == ["plan", "act"]
    if event == "subtask_finished":
        assert tell(subtask="bow", subtask_finished=True) == ["plan", "act"]
    rig.give(2)
    rig.step()
    rig.chosen()
    assert tell(goal=2, **{event: True}) == ["plan", "act"]


def test_the_planner_looks_at_an_observation_that_shows_the_event(rig: Rig) -> None:
    rig.give(1)
    rig.step()
    rig.chosen()
    event = ValueEstimate(goal=1, stalled=True)
    event.header.stamp = time_message(rig.now + SECOND // 2)
    rig.node._on_value(event)
    rig.step(0.4)
    assert rig.chosen() == ["act"]
    rig.step(0.2)
    assert rig.chosen() == ["plan", "act"]
    rig.step(0.2)
    assert rig.chosen() == ["act"]


def test_an_event_that_the_first_plan_of_a_goal_could_not_see_is_planned_for(rig: Rig) -> None:
    rig.give(1)
    event = ValueEstimate(goal=1, dropped=True)
    event.header.stamp = time_message(rig.now + SECOND // 2)
    rig.node._on_value(event)
    rig.step(0.4)
    assert rig.chosen() == ["reset", "plan", "act"]
    rig.step(0.2)
    assert rig.chosen() == ["plan", "act"]
    rig.step(0.2)
    assert rig.chosen() == ["act"]


def test_an_event_of_an_earlier_goal_is_not_planned_for(rig: Rig) -> None:
    rig.give(1)
    rig.step()
    event = ValueEstimate(goal=1, dropped=True)
    event.header.stamp = time_message(rig.now + SECOND)
    rig.node._on_value(event)
    rig.give(2)
    rig.step(0.4)
    rig.chosen()
    rig.step(0.7)
    assert rig.chosen() == ["act"]


def test_an_event_that_begins_while_the_planner_thinks_is_planned_for_too(rig: Rig) -> None:
    def tell(*events: str) -> None:
        message = ValueEstimate(goal=1, **dict.fromkeys(events, True))
        message.header.stamp = time_message(rig.now)
        rig.node._on_value(message)

    rig.give(1)
    rig.step()
    tell("dropped")
    rig.chosen()
    rig.policy.during["plan"] = lambda: tell("dropped", "stalled")
    rig.step(0.15)
    rig.policy.during.clear()
    assert rig.chosen() == ["plan", "act"]
    rig.step(0.15)
    assert rig.chosen() == ["plan", "act"]
    rig.step(0.15)
    assert rig.chosen() == ["act"]
