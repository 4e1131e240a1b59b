# SPDX-License-Identifier: Apache-2.0
"""What the simulated arm's node says of a task; the arm's progress is the test's own."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import rclpy
from vla_interfaces.msg import Subtask, Task, ValueEstimate

from vla_nodes.nodes import sim as module
from vla_nodes.nodes.sim import SimNode
from vla_nodes.nodes.stamps import time_message
from vla_nodes.sim.progress import Progress


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimNode]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")
    monkeypatch.setattr(module.os, "setpriority", lambda *_: None)  # the test's process
    rclpy.init()
    node = SimNode()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_the_subtask_of_an_earlier_goal_is_not_told_of_a_new_one(node: SimNode) -> None:
    told: list[ValueEstimate] = []

    def update(_goal: int, _task: str, subtask: str, _now: float) -> Progress:
        return Progress(-0.5, 0.0, False, subtask_finished=subtask == "grasp", stalled=False)

    node._monitor = SimpleNamespace(update=update)
    node._values = SimpleNamespace(publish=told.append)
    node._on_subtask(Subtask(goal=1, subtask="grasp"))
    for goal in (1, 2):
        node._on_task(Task(goal=goal, text="tidy"))
        node._publish_value(time_message(10**9))
    assert [(value.subtask, value.subtask_finished) for value in told] == [
        ("grasp", True),
        ("", False),
    ]
