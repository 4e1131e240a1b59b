# SPDX-License-Identifier: Apache-2.0
"""Sizes and form of an energy model."""

import math
from dataclasses import dataclass
from typing import Literal

Form = Literal["tokens", "global"]
Pooling = Literal["mean", "attention"]
TYPE = "vla_energy"
"""Of a checkpoint, in its ``config.json``."""
LOWEST, RANGE, SLOPE = 0.1, 2.0, 0.5
"""A bounded energy is LOWEST + RANGE · sigmoid(SLOPE · head)."""
HIGHEST = LOWEST + RANGE
_FLAT = 1e-3  # below the highest energy, where the sigmoid tells next to nothing apart


@dataclass(frozen=True)
class EnergyConfig:
    """An energy model of any size.

    Attributes:
        state_dim: Width of the policy's hidden states, D.
        action_dim: Elements of an action, A.
        hidden: Width within.
        heads: Of the cross attention.
        dropout: On the actions' features in training.
        form: How actions meet the context. "tokens": each action attends to the policy's hidden
            states. "global": their mean attends to the actions, as an action would find nothing
            to choose from in a context of one vector, and its energy would not depend on it.
        pooling: How energies of actions become that of a chunk. "mean": of the actions'
            energies. "attention": actions are pooled by a learnt query that knows their order,
            and have one energy. A global form has nothing to pool.
        bounded: Whether energies lie between 0.1 and 2.1, by a sigmoid.
    """

    state_dim: int
    action_dim: int
    hidden: int = 512
    heads: int = 8
    dropout: float = 0.2
    form: Form = "tokens"
    pooling: Pooling = "mean"
    bounded: bool = True

    def __post_init__(self) -> None:
        """Checks that the parts fit.

        Raises:
            ValueError: They do not.
        """
        for name in ("state_dim", "action_dim", "hidden", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.hidden % math.lcm(2, self.heads):
            raise ValueError(
                f"hidden is {self.hidden}, expected it even and a multiple of {self.heads} heads"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}, expected from 0 to less than 1")
        if self.form not in ("tokens", "global"):
            raise ValueError(f"form is {self.form!r:.50}, expected tokens or global")
        if self.pooling not in ("mean", "attention"):
            raise ValueError(f"pooling is {self.pooling!r:.50}, expected mean or attention")
        if self.form == "global" and self.pooling == "attention":
            raise ValueError("the global form has one energy for a chunk: expected pooling mean")

    @property
    def saturated(self) -> float:
        """From which energy on chunks are told apart no more; infinite if it is not bounded."""
        return HIGHEST - _FLAT if self.bounded else math.inf
