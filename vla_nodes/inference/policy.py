# SPDX-License-Identifier: Apache-2.0
"""What the policy node asks of a backend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_nodes.contract import StateSource
from vla_nodes.observation.observation import Observation


class PolicyError(ValueError):
    """A policy does not fit this robot, or cannot do this task; says why and what would."""


class Verdict(IntEnum):
    """What an energy check said of a chunk; the values of ``ActionChunk.VERDICT_*``."""

    UNCHECKED = 0
    ACCEPTED = 1
    REJECTED = 2


@dataclass(frozen=True)
class ActionPlan:
    """A chunk of actions for one observation.

    Attributes:
        actions: (T, A) in the contract's order and units; row i is due (i + 1) / fps after
            the observation.
        relative: Whether the actions are offsets from the measured positions at the
            observation (grippers stay absolute).
        energy: Lower fits the observation better; as the chunk was drawn, before any
            correction. NaN when unchecked.
        threshold: The energy above which a chunk is rejected; NaN when unchecked.
        verdict: What the energy check said.
        resamples: How often chunks were drawn again to find this one.
    """

    actions: NDArray[np.float64]
    relative: bool = False
    energy: float = math.nan
    threshold: float = math.nan
    verdict: Verdict = Verdict.UNCHECKED
    resamples: int = 0


class Policy(Protocol):
    """A hierarchical policy: a planner in words above an expert in actions.

    Methods are called from one worker thread, never at the same time. PolicyError from
    ``plan_subtask`` or ``act`` means that the task cannot be done here and ends it; any other
    exception is a failure of the policy.

    Attributes:
        extra_states: State sources beyond the contract's that the policy wants to observe; they
            arrive in ``Observation.extras``. Empty for a policy that sees what the robot sees.
    """

    extra_states: Sequence[StateSource]

    def reset(self) -> None:
        """Forget the previous goal; called before the first observation of a new one."""

    def plan_subtask(self, observation: Observation, task: str) -> str:
        """The subtask to work on now; empty when nothing is left to do."""

    def act(self, observation: Observation, subtask: str) -> ActionPlan:
        """A chunk of actions for the observation."""
