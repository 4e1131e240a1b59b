# SPDX-License-Identifier: Apache-2.0
"""The value function that comes with the project, live: it rises, falls and tells of a stall."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from std_srvs.srv import SetBool, Trigger
from vla_interfaces.action import ExecuteTask
from vla_interfaces.msg import ValueEstimate

from vla_nodes.bringup.graph import BringupOptions
from vla_nodes.nodes import qos, topics
from vla_nodes.nodes.stamps import nanoseconds

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "sim_arm_value"
TASK = "clear the table"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Watched:
    """A graph with the value monitor, and all that it said since the table was laid.

    Times are those of the simulation, in seconds, as estimates are stamped.
    """

    def __init__(self, graph: Any) -> None:
        self.client = graph.client
        self.values: list[tuple[float, ValueEstimate]] = []
        self.client.node.create_subscription(ValueEstimate, topics.VALUE, self._take, qos.NEWEST)

    def _take(self, message: ValueEstimate) -> None:
        with self.client.changed:
            self.values.append((nanoseconds(message.header.stamp) * 1e-9, message))
            self.client.changed.notify_all()

    def lay(self, seed: int, cubes: int) -> None:
        self.client.reset_simulation(seed, cubes)
        self.client.seconds_to_rest(time.monotonic(), timeout=30.0)
        self.values.clear()

    def now(self) -> float:
        """When the newest estimate was; up to a period ago."""
        return self.values[-1][0]

    def until(self, holds: Callable[[ValueEstimate], bool], timeout: float, what: str) -> float:
        """Waits for such an estimate, for seconds of the clock; returns its time."""
        seen = len(self.values)

        def found() -> float | None:
            return next((at for at, value in self.values[seen:] if holds(value)), None)

        return self.client.wait_until(found, timeout, what)

    def risen(self, level: float) -> bool:
        """Whether the last four estimates lie above a level; one alone may be noise."""
        return len(self.values) >= 4 and min(v.value for _, v in self.values[-4:]) > level

    def mean(self, begin: float, end: float) -> float:
        return float(np.mean([v.value for at, v in self.values if begin <= at < end]))


@pytest.fixture(scope="module")
def patient() -> dict[str, dict]:
    return {"supervisor": {"transition_timeout": 200.0, "stall_timeout": 20.0}}


@pytest.fixture
def watched(launch: Callable, patient: dict) -> Iterator[Watched]:
    with launch(BringupOptions(value_checkpoint=str(WEIGHTS)), patient) as graph:
        client = graph.client
        client.wait_until_ready(200.0)
        client.wait_until(
            lambda: client.value("value_monitor", "state") == "active", 200.0, "it watches"
        )
        yield Watched(graph)


def test_the_value_rises_while_the_expert_works_and_tells_the_end(watched: Watched) -> None:
    for seed, cubes in ((12, 2), (21, 1), (22, 2)):
        watched.lay(seed, cubes)
        result = watched.client.execute(TASK, 40.0)
        assert result.outcome == ExecuteTask.Result.OUTCOME_SUCCESS, result.message
        times, values = zip(*((at, v.value) for at, v in watched.values), strict=True)
        order = spearmanr(times, values).statistic
        print(f"seed {seed}: {values[0]:.2f} to {values[-1]:.2f}, rank correlation {order:.2f}")
        assert order > 0.6
        assert np.mean(values[-3:]) > -0.1
        assert np.mean(values[:3]) < -0.25


def test_the_value_falls_when_the_cube_is_knocked_away(watched: Watched) -> None:
    watched.lay(14, 2)
    watched.client.start(TASK, 40.0)
    watched.until(lambda _: watched.risen(-0.25), 15.0, "it has risen")
    watched.client.call(Trigger, "sim/knock", Trigger.Request())
    at = watched.now()
    told = watched.until(lambda value: value.dropped, 5.0, "the fall is told")
    watched.until(lambda _: watched.now() > told + 0.4, 5.0, "a few more estimates")
    before = watched.mean(at - 0.5, at + 0.01)
    lowest = min(v.value for when, v in watched.values if when > at)
    print(f"from {before:.2f} to {lowest:.2f} at the lowest, told after {told - at:.2f} s")
    assert lowest < before - 0.1
    watched.until(lambda value: value.finished, 30.0, "the expert picks it up again")


@pytest.mark.parametrize(("seed", "cubes", "delay"), [(13, 1, 3.0), (14, 2, 6.0), (15, 2, 4.0)])
def test_a_stall_is_told_when_the_arm_is_blocked(
    watched: Watched, seed: int, cubes: int, delay: float
) -> None:
    watched.lay(seed, cubes)
    watched.client.start(TASK, 40.0)
    watched.until(lambda _: True, 15.0, "it watches")
    begun = watched.values[0][0]
    watched.until(lambda _: watched.now() - begun > delay, 15.0, "the arm is on its way")
    assert watched.client.call(SetBool, "sim/block", SetBool.Request(data=True)).success
    at = watched.now()
    told = watched.until(lambda value: value.stalled, 6.0, "the stall is told")
    print(f"seed {seed}: told after {told - at:.2f} s")
    assert told - at < 3.0
    assert watched.client.call(SetBool, "sim/block", SetBool.Request(data=False)).success
    watched.until(lambda value: not value.stalled, 10.0, "the stall ends")
