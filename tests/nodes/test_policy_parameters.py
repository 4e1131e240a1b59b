# SPDX-License-Identifier: Apache-2.0
from dataclasses import fields, replace

import pytest

from vla_nodes.bringup.graph import find_contract
from vla_nodes.contract import load_contract
from vla_nodes.inference import PolicyOptions
from vla_nodes.nodes.parameters import ParameterError
from vla_nodes.nodes.policy_parameters import (
    BACKENDS,
    PolicyParameters,
    load_policy,
    policy_options,
)


def test_every_option_of_a_policy_is_a_parameter_with_the_same_default() -> None:
    assert policy_options(PolicyParameters()) == PolicyOptions()
    chosen = {
        "candidates": 8,
        "steps": 5,
        "guidance": 1.5,
        "dtype": "bfloat16",
        "compile": True,
        "real_time": "guided",
        "planner": "free",
        "energy": "/energy",
        "resamples": 4,
        "correction_steps": 3,
        "correction_rate": 0.5,
    }
    assert set(chosen) == {option.name for option in fields(PolicyOptions)}
    assert policy_options(PolicyParameters(**chosen)) == PolicyOptions(**chosen)


@pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"expert"}))
def test_a_backend_with_weights_asks_for_them(backend: str) -> None:
    contract = load_contract(find_contract("sim_arm"))
    with pytest.raises(ParameterError, match=f"backend '{backend}': it needs a checkpoint"):
        load_policy(PolicyParameters(backend=backend), contract)


def test_the_scripted_expert_refuses_options_that_it_does_not_have() -> None:
    contract = load_contract(find_contract("sim_arm"))
    parameters = replace(PolicyParameters(), dtype="bfloat16")
    with pytest.raises(ParameterError, match="the scripted expert takes no 'dtype'"):
        load_policy(parameters, contract)
