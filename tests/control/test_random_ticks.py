# SPDX-License-Identifier: Apache-2.0
import runpy
from pathlib import Path

import pytest

from vla_nodes.control import State

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "commander_ticks.py"


@pytest.mark.parametrize("seed", [1, 2])
def test_no_limit_is_broken_in_a_storm_of_random_ticks(seed):
    run = runpy.run_path(str(BENCHMARK))["storm"](25_000, seed)
    assert run.oracle.violations == []
    assert run.states[State.MOVING] > 5_000, "the robot hardly moved, so the storm proves little"
