# SPDX-License-Identifier: Apache-2.0
"""What the supervisor makes of value estimates; the goal and both clocks are the test's own."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from vla_interfaces.action import ExecuteTask
from vla_interfaces.msg import ValueEstimate

from vla_nodes.nodes import supervisor as module
from vla_nodes.nodes.supervisor import Supervisor, SupervisorParameters

GOAL = 7
STALLED, SUCCESS = ExecuteTask.Result.OUTCOME_STALLED, ExecuteTask.Result.OUTCOME_SUCCESS


class Rig:
    """A supervisor with one goal under way; time passes by ``wait``."""

    def __init__(self, node: Supervisor) -> None:
        self.node, self.now = node, 100.0
        node.ros_now = lambda: round(self.now * 1e9)  # type: ignore[method-assign]
        node._required, node._manager = [], None
        node._result = SimpleNamespace(publish=lambda _: None)
        handle = SimpleNamespace(
            is_cancel_requested=False, succeed=lambda: None, abort=lambda: None
        )
        self.goal = module._Goal(GOAL, "tidy", 1000.0, handle, node.ros_now())
        node._running = self.goal

    def tell(self, goal: int = GOAL, value: float = -0.5, **events: bool) -> None:
        self.node._on_value(ValueEstimate(goal=goal, value=value, trend=0.1, **events))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.node._running:
            self.node._judge(self.goal, self.now)

    def tell_for(self, seconds: float, **events: bool) -> None:
        for _ in range(round(seconds / 0.5)):
            self.tell(**events)
            self.wait(0.5)

    @property
    def outcome(self) -> int | None:
        return self.goal.ended.result().outcome if self.goal.ended.done() else None

    @property
    def feedback(self) -> Any:
        return self.node._feedback(self.goal, self.now)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr(module, "raise_priority", lambda _: None)  # the test's process
    rclpy.init()
    node = Supervisor()
    node.parameters = SupervisorParameters(stall_timeout=10.0, value_timeout=3.0)
    rig = Rig(node)
    monkeypatch.setattr(module.time, "monotonic", lambda: rig.now)
    yield rig
    monkeypatch.undo()
    node.destroy_node()
    rclpy.shutdown()


def test_a_finished_task_is_a_success_at_once(rig: Rig) -> None:
    rig.tell(value=-0.01, finished=True)
    rig.wait(0.05)
    assert rig.outcome == SUCCESS


def test_a_stall_ends_the_task_when_it_has_lasted(rig: Rig) -> None:
    rig.tell_for(9.5, stalled=True)
    assert rig.outcome is None
    rig.tell_for(1.0, stalled=True)
    assert rig.outcome == STALLED


def test_a_stall_that_ends_in_between_begins_anew(rig: Rig) -> None:
    rig.tell_for(9.5, stalled=True)
    rig.tell_for(0.5)
    rig.tell_for(9.5, stalled=True)
    assert rig.outcome is None


def test_estimates_of_another_goal_say_nothing(rig: Rig) -> None:
    rig.tell(goal=GOAL - 1, finished=True, value=-0.01)
    rig.wait(0.05)
    assert rig.outcome is None
    assert math.isnan(rig.feedback.value)


def test_a_stall_is_forgotten_when_the_estimates_stop(rig: Rig) -> None:
    rig.tell_for(6.0, stalled=True)
    rig.wait(2.0)
    assert rig.feedback.value == pytest.approx(-0.5)
    rig.wait(1.0)
    assert math.isnan(rig.feedback.value)
    assert math.isnan(rig.feedback.trend)
    rig.wait(20.0)
    assert rig.outcome is None


def test_a_stall_told_again_after_a_silence_must_last_from_then_on(rig: Rig) -> None:
    rig.tell_for(8.0, stalled=True)
    rig.wait(20.0)
    rig.tell_for(9.5, stalled=True)
    assert rig.outcome is None
    rig.tell_for(1.0, stalled=True)
    assert rig.outcome == STALLED
