# SPDX-License-Identifier: Apache-2.0
"""The robot's contract: one YAML that every part of the stack reads."""

from vla_nodes.contract.errors import ContractError
from vla_nodes.contract.loader import contract_digest, load_contract
from vla_nodes.contract.schema import (
    ActionSource,
    Camera,
    Checks,
    Contract,
    Gripper,
    JointLimits,
    Qos,
    Recorded,
    StateSource,
)

__all__ = [
    "ActionSource",
    "Camera",
    "Checks",
    "Contract",
    "ContractError",
    "Gripper",
    "JointLimits",
    "Qos",
    "Recorded",
    "StateSource",
    "contract_digest",
    "load_contract",
]
