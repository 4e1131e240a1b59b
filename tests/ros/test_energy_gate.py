# SPDX-License-Identifier: Apache-2.0
"""The energy check in the real graph: what it rejects, the commander does not follow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vla_interfaces.msg import ActionChunk

from vla_nodes.bringup.graph import BringupOptions
from vla_nodes.nodes import qos, topics

TASK = "clear the table"
# Loading PyTorch takes long, and longer where other work goes on.
SUPERVISOR = {"supervisor": {"transition_timeout": 200.0}}
PATIENT = 200.0
ALL, NONE = 3.0, 0.0
"""Thresholds above and below every energy."""

pytestmark = pytest.mark.timeout(400)


def chunks_of(graph: Any) -> list:
    """Those that come, as they come."""
    chunks: list = []

    def take(message: object) -> None:
        with graph.client.changed:
            chunks.append(message)
            graph.client.changed.notify_all()

    graph.client.node.create_subscription(ActionChunk, topics.CHUNK, take, qos.NEWEST)
    return chunks


def checked(pi05_folder: Path, energy: Path, **more: object) -> tuple[BringupOptions, dict]:
    """Options and parameters of a graph whose policy has an energy check."""
    options = BringupOptions(backend="pi05", checkpoint=str(pi05_folder), energy=str(energy))
    return options, {"policy": {"candidates": 2, **more}, **SUPERVISOR}


def test_what_is_rejected_is_not_followed(
    launch: Callable, pi05_folder: Path, energy_folder: Callable
) -> None:
    with launch(*checked(pi05_folder, energy_folder(NONE), resamples=1)) as graph:
        client = graph.client
        chunks = chunks_of(graph)
        client.wait_until_ready(PATIENT)
        client.start(TASK, time_limit=100.0)
        client.wait_until(lambda: len(chunks) >= 5, 60.0, "5 chunks come")
        assert {chunk.verdict for chunk in chunks} == {ActionChunk.VERDICT_REJECTED}
        for chunk in chunks:
            assert chunk.energy > chunk.threshold == NONE
        reason = "count: rejected by the energy model"
        client.wait_until(lambda: client.value("commander", reason), 10.0, "refusals are counted")
        client.wait_until(
            lambda: "energy check rejected" in client.message("policy"), 10.0, "the policy says so"
        )
        assert client.speed() < 1e-3
        assert int(client.value("policy", "chunks_accepted")) == 0
        first = client.commands[0].positions
        assert all(abs(command.positions - first).max() < 1e-6 for command in client.commands)


def test_what_is_accepted_is_followed(
    launch: Callable, pi05_folder: Path, energy_folder: Callable
) -> None:
    options = checked(pi05_folder, energy_folder(ALL), correction_steps=2)
    with launch(*options) as graph:
        client = graph.client
        chunks = chunks_of(graph)
        client.wait_until_ready(PATIENT)
        client.start(TASK, time_limit=100.0)
        client.wait_until(lambda: len(chunks) >= 5, 60.0, "5 chunks come")
        client.wait_until(lambda: client.speed() > 0.02, 30.0, "the arm moves")
        assert {chunk.verdict for chunk in chunks} == {ActionChunk.VERDICT_ACCEPTED}
        client.wait_until(
            lambda: int(client.value("policy", "chunks_accepted") or 0) >= 5, 10.0, "counted"
        )
        assert 0.1 < float(client.value("policy", "energy_p50")) < 2.1
        client.check_limits(graph.contract)


def test_an_energy_model_of_another_policy_keeps_the_node_from_starting(
    launch: Callable, pi05_folder: Path, energy_folder: Callable
) -> None:
    with launch(*checked(pi05_folder, energy_folder(ALL, policy="0" * 64))) as graph:
        words = "was trained with another policy"
        graph.client.wait_until(lambda: words in graph.client.message("policy"), PATIENT, words)
