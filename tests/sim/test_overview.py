# SPDX-License-Identifier: Apache-2.0
"""The picture for people, rendered in a thread beside the physics."""

import queue

import numpy as np

from vla_nodes.sim.arm import TabletopArm
from vla_nodes.sim.layout import LayoutOptions
from vla_nodes.sim.overview import OverviewRenderer


def test_the_overview_shows_the_arm_of_the_snapshot() -> None:
    arm = TabletopArm()
    arm.reset(5, LayoutOptions(cubes=3))
    arm.command(arm.joint_positions + np.array([0.4, 0.2, 0.0, 0.0, 0.0, 0.0]))
    arm.advance(100)
    pictures: queue.Queue = queue.Queue()
    failures: list[str] = []
    renderer = OverviewRenderer(160, 120, lambda *picture: pictures.put(picture), failures.append)
    try:
        renderer.show(arm.snapshot(), 42)
        picture, stamp = pictures.get(timeout=30.0)
    finally:
        renderer.stop()
    assert not failures
    assert stamp == 42
    reference = arm.render("overview", 160, 120)
    arm.close()
    assert np.abs(picture.astype(int) - reference).mean() < 0.5
    assert picture.std() > 10


def test_a_failure_is_reported_once_and_ends_the_thread() -> None:
    failures: queue.Queue = queue.Queue()
    renderer = OverviewRenderer(160, 120, lambda *_picture: None, failures.put)
    renderer.show(np.zeros(3), 1)
    assert "Error" in failures.get(timeout=30.0)
    renderer.stop()
    assert failures.empty()
