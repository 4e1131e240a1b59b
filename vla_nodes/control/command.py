# SPDX-License-Identifier: Apache-2.0
"""What leaves the motion core: commands, states and health."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vla_nodes.control.parameters import Floats


class State(IntEnum):
    """What the core is doing."""

    INACTIVE = 0
    HOLD = 1
    MOVING = 2
    BRAKING = 3
    ESTOPPED = 4
    TRIPPED = 5


@dataclass
class Command:
    """What to send to the robot; the same object is filled anew at every tick.

    Attributes:
        positions: (A,) rad or m, in the contract's order.
        velocities: (A,) per second, the true ones at these positions.
        limited: (A,) True where the joint could not take what the chunk asked of it.
        state: What the core is doing.
        publish: False where nothing is to be sent: the core is inactive, no time has
            passed, or nobody knows yet where the robot is after a long silence.
    """

    positions: Floats
    velocities: Floats
    limited: NDArray[np.bool_]
    state: State = State.INACTIVE
    publish: bool = False


@dataclass(frozen=True)
class Health:
    """For diagnostics.

    Attributes:
        state: What the core is doing.
        fault: Why it stopped last, in plain words; empty once it moves again.
        goal: Being served, or 0.
        limited_share: Share of ticks, in [0, 1], in which a joint was limited.
        counters: How often each refusal and fault occurred.
    """

    state: State
    fault: str
    goal: int
    limited_share: float
    counters: dict[str, int]
