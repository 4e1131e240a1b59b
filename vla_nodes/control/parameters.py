# SPDX-License-Identifier: Apache-2.0
"""Parameters of the motion core, and the joints it commands."""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vla_nodes.contract.schema import Contract, Gripper

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MotionParameters:
    """What the commander holds itself to, beside the contract's limits.

    Distances that would need a unit per joint are given as the seconds that the joint
    takes for them at its full speed.

    Attributes:
        rate: Nominal ticks per second, Hz.
        lease_timeout: Seconds without a Task message after which the goal is lost.
        measured_timeout: Seconds, by receipt and by stamp, that a measured state stays valid.
        max_observation_age: Seconds that a chunk's observation may be old on arrival.
        max_chunk_age: Seconds after receipt that a chunk is followed, whatever its horizon.
        max_horizon: Seconds from the observation to the last target of a chunk.
        max_future: Seconds that a stamp may lie in the future.
        max_standstill: Seconds that simulated time may stand still before the goal is ended.
        max_gap: Seconds between ticks after which the robot is taken to be at rest.
        blend: Seconds over which a new chunk takes over.
        max_jump: Distance beyond what full speed allows from the observation until the first
            target is due, in seconds at full speed.
        max_refusals: Malformed or far chunks in a row that trip.
        max_tracking_error: Measured against commanded position, seconds at full speed;
            grippers are exempt, for they close on things.
        max_lag: Command behind reference that counts as limited, seconds at full speed.
        clamp_tolerance: Share of a joint's range that a target may lie outside before the
            clamping counts as limited.
        limited_share: Share of limited ticks, in [0, 1], that trips.
        limited_time: Seconds over which that share is averaged and must stay above.
        creep: Share of full speed for a joint that was found outside its limits.
        sim_time: ROS time comes from /clock, where a jump back or a standstill ends the
            goal; the steps of a system clock are followed instead.
    """

    rate: float = 100.0
    lease_timeout: float = 0.5
    measured_timeout: float = 0.2
    max_observation_age: float = 1.0
    max_chunk_age: float = 2.0
    max_horizon: float = 10.0
    max_future: float = 0.05
    max_standstill: float = 1.0
    max_gap: float = 0.5
    blend: float = 0.1
    max_jump: float = 0.2
    max_refusals: int = 5
    max_tracking_error: float = 0.5
    max_lag: float = 0.1
    clamp_tolerance: float = 0.05
    limited_share: float = 0.8
    limited_time: float = 2.0
    creep: float = 0.1
    sim_time: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no robot could run with.

        Raises:
            ValueError: Naming the parameter, its value and what would be right.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and (value > 0 or field.name == "sim_time")):
                raise ValueError(f"{field.name} is {value}; it must be finite and above 0")
        for name in ("limited_share", "creep"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, at most 1")
        if self.max_gap <= self.dt_max:
            raise ValueError(f"max_gap is {self.max_gap} s; it must exceed {self.dt_max} s")

    @property
    def dt_max(self) -> float:
        """Longest step of one tick in seconds, three nominal periods."""
        return 3.0 / self.rate


@dataclass(frozen=True)
class Joints:
    """The contract's action vector as arrays of shape (A,); rad or m, per s, per s².

    Attributes:
        names: Of the elements, in the contract's order.
        lower: Least positions.
        upper: Greatest positions.
        velocity: Greatest speeds.
        acceleration: Greatest accelerations.
        grippers: One per joint, None where the joint follows its target.
        dt: Seconds between the targets of a chunk.
    """

    names: tuple[str, ...]
    lower: Floats
    upper: Floats
    velocity: Floats
    acceleration: Floats
    grippers: tuple[Gripper | None, ...]
    dt: float

    @classmethod
    def from_contract(cls, contract: Contract) -> "Joints":
        """The joints that a contract's actions command."""
        limits = contract.limits
        return cls(
            names=contract.action_names,
            lower=np.array([limit.lower for limit in limits]),
            upper=np.array([limit.upper for limit in limits]),
            velocity=np.array([limit.velocity for limit in limits]),
            acceleration=np.array([limit.acceleration for limit in limits]),
            grippers=contract.grippers,
            dt=contract.dt,
        )

    @property
    def follows(self) -> NDArray[np.bool_]:
        """(A,) True where the joint follows its target, False for switched grippers."""
        return np.array([gripper is None for gripper in self.grippers])
