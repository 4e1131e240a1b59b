# SPDX-License-Identifier: Apache-2.0
"""The commander's parameters."""

from dataclasses import dataclass

from vla_nodes.control import MotionParameters
from vla_nodes.nodes.parameters import parameter

_DEFAULT = MotionParameters()


@dataclass(frozen=True)
class CommanderParameters:
    """Parameters of the commander; those of MotionParameters keep their names."""

    contract: str = parameter("", "Path of the robot's contract, YAML")
    lockstep: bool = parameter(False, "Tick on every joint state of a simulation that waits")
    rate: float = parameter(
        _DEFAULT.rate,
        "Commands per second, Hz",
        minimum=10.0,
        maximum=1000.0,
    )
    lease_timeout: float = parameter(
        _DEFAULT.lease_timeout,
        "Seconds without a Task message after which the robot brakes",
        minimum=0.1,
        maximum=5.0,
    )
    measured_timeout: float = parameter(
        _DEFAULT.measured_timeout,
        "Seconds without a joint state after which the robot brakes",
        minimum=0.01,
        maximum=5.0,
    )
    max_observation_age: float = parameter(
        _DEFAULT.max_observation_age,
        "Seconds that a chunk's observation may be old on arrival",
        minimum=0.01,
        maximum=10.0,
    )
    max_chunk_age: float = parameter(
        _DEFAULT.max_chunk_age,
        "Seconds after receipt that a chunk is followed; longer than the policy's slowest cycle",
        minimum=0.1,
        maximum=60.0,
    )
    max_jump: float = parameter(
        _DEFAULT.max_jump,
        "How far a chunk's first target may lie beyond reach, in seconds at full speed",
        minimum=0.0,
        maximum=5.0,
    )
    blend: float = parameter(
        _DEFAULT.blend, "Seconds over which a new chunk takes over", minimum=0.01, maximum=2.0
    )
    max_refusals: int = parameter(
        _DEFAULT.max_refusals, "Bad chunks in a row that trip", minimum=1, maximum=1000
    )
    max_tracking_error: float = parameter(
        _DEFAULT.max_tracking_error,
        "Distance of measured from commanded position that trips, in seconds at full speed",
        minimum=0.01,
        maximum=10.0,
    )
    estop_timeout: float = parameter(
        0.0,
        "Seconds of silence on the e-stop topic that count as pressed; 0: silence is allowed",
        minimum=0.0,
        maximum=10.0,
    )
