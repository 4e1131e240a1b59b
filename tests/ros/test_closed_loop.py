# SPDX-License-Identifier: Apache-2.0
"""The expert through the real nodes, over many tables."""

from collections.abc import Callable

import pytest
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
