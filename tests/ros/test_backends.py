# SPDX-License-Identifier: Apache-2.0
"""Policies with weights, in the real policy node on the simulated arm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from vla_interfaces.msg import ActionChunk, Subtask

from vla_nodes.bringup.graph import BringupOptions
from vla_nodes.nodes import qos, topics

TASK = "clear the table"
CHUNKS = 5
# Loading PyTorch and LeRobot takes long, and longer where other work goes on.
PATIENT = {"supervisor": {"transition_timeout": 200.0}}

pytestmark = pytest.mark.timeout(400)


def received(graph: object, kind: type, topic: str, profile: object) -> list:
    """Everything that comes on a topic of the graph, as it comes."""
    messages: list = []

    def take(message: object) -> None:
        with graph.client.changed:
            messages.append(message)
            graph.client.changed.notify_all()

    graph.client.node.create_subscription(kind, topic, take, profile)
    return messages


def drive(graph: object, chunks: list) -> None:
    """Give a task; the policy's chunks are whole, and the arm follows them within its limits."""
    graph.client.wait_until_ready(200.0)
    graph.client.start(TASK)
    graph.client.wait_until(lambda: len(chunks) >= CHUNKS, 30.0, f"{CHUNKS} chunks come")
    graph.client.wait_until(lambda: graph.client.speed() > 0.02, 15.0, "the arm moves")
    for chunk in list(chunks):
        assert tuple(chunk.trajectory.joint_names) == graph.contract.action_names
        rows = np.array([point.positions for point in chunk.trajectory.points])
        assert rows.shape == (20, 6)
        assert np.isfinite(rows).all()
    graph.client.check_limits(graph.contract)


def test_a_policy_of_lerobot_drives_the_arm(launch: Callable, act_folder: Path) -> None:
    options = BringupOptions(backend="lerobot", checkpoint=str(act_folder))
    with launch(options, PATIENT) as graph:
        chunks = received(graph, ActionChunk, topics.CHUNK, qos.NEWEST)
        subtasks = received(graph, Subtask, topics.SUBTASK, qos.LATCHED)
        drive(graph, chunks)
        assert {message.subtask for message in subtasks} == {TASK}


def test_pi05_plans_and_acts_and_its_subtask_is_on_the_topic(
    launch: Callable, pi05_folder: Path
) -> None:
    options = BringupOptions(backend="pi05", checkpoint=str(pi05_folder))
    parameters = {"policy": {"real_time": "trained", "candidates": 2}, **PATIENT}
    with launch(options, parameters) as graph:
        chunks = received(graph, ActionChunk, topics.CHUNK, qos.NEWEST)
        subtasks = received(graph, Subtask, topics.SUBTASK, qos.LATCHED)
        drive(graph, chunks)
        assert subtasks[-1].task == TASK
        assert subtasks[-1].subtask in {
            "put the red cube in the tray",
            "put the blue cube in the tray",
        }
        assert {chunk.subtask for chunk in chunks} <= {message.subtask for message in subtasks}


def test_what_a_backend_cannot_take_is_named_in_plain_words(
    launch: Callable, act_folder: Path
) -> None:
    options = BringupOptions(backend="lerobot", checkpoint=str(act_folder))
    with launch(options, {"policy": {"candidates": 4}}) as graph:
        words = "backend 'lerobot': a LeRobot policy takes no 'candidates'; found 4"
        graph.client.wait_until(lambda: words in graph.client.message("policy"), 60.0, words)
