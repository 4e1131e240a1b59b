# SPDX-License-Identifier: Apache-2.0
"""The expert through the real nodes, over many tables."""

from collections.abc import Callable

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger
from vla_interfaces.action import ExecuteTask

from vla_nodes.bringup.graph import BringupOptions

SEEDS = 20


@pytest.mark.slow
def test_the_expert_clears_the_table_through_the_nodes_on_every_seed(launch: Callable) -> None:
    with launch(BringupOptions(lockstep=True)) as graph:
        graph.client.wait_until_ready()
        failures = {}
        for seed in range(SEEDS):
            lying = graph.client.reset_simulation(seed, cubes=2 + seed % 3)
            result = graph.client.execute("clear the table", time_limit=60.0)
            print(f"seed {seed}: {lying}: {result.message} after {result.elapsed:.1f} s")
            if result.outcome != ExecuteTask.Result.OUTCOME_SUCCESS:
                failures[seed] = result.message
        graph.client.check_limits(graph.contract, simulated_time=True)
        assert not failures


def test_a_blocked_arm_stops_and_a_knocked_cube_moves(launch: Callable) -> None:
    # In lock step a busy machine takes longer and comes to the same.
    with launch(BringupOptions(lockstep=True)) as graph:
        client = graph.client
        client.wait_until_ready()
        colour = client.reset_simulation(1, cubes=1).split()[0]
        arm: list[np.ndarray] = []
        cube: list[np.ndarray] = []

        def on_scene(message: JointState) -> None:
            at = message.name.index(f"{colour}_cube.x")
            cube.append(np.array(message.position[at : at + 3]))

        client.node.create_subscription(
            JointState, "/joint_states", lambda message: arm.append(np.array(message.position)), 10
        )
        client.node.create_subscription(JointState, "/sim/scene", on_scene, 10)
        client.start("clear the table")
        client.wait_until(lambda: client.speed() > 0.2, 60.0, "the robot moves")
        assert client.call(SetBool, "sim/block", SetBool.Request(data=True)).success
        client.wait_until(
            lambda: len(arm) > 100 and np.ptp(arm[-50:], axis=0).max() < 0.01,
            60.0,
            "the blocked arm is at rest",
        )
        before = cube[-1]
        response = client.call(Trigger, "sim/knock", Trigger.Request())
        assert (response.success, response.message) == (True, f"the {colour} cube")
        client.wait_until(
            lambda: np.linalg.norm(cube[-1] - before) > 0.05, 30.0, "the knocked cube moves"
        )
