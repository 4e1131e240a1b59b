# SPDX-License-Identifier: Apache-2.0
"""Lowers the energy of a chunk by following its gradient, in small steps and within limits."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_nodes.contract import Contract
from vla_nodes.models.scaling import Scaling

LONGEST_STEP = 0.2
"""Of a step's norm, in norms of the chunk."""


@dataclass(frozen=True, eq=False)
class Correction:
    """What may be changed of a chunk, and how.

    Attributes:
        steps: How many.
        rate: Of a step, in normalised units for a slope of one energy a normalised unit.
        low: (A,) the joints' lower limits, normalised.
        high: (A,) the upper ones.
        free: (A,) bool, the joints that may be corrected.
    """

    steps: int
    rate: float
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    free: NDArray[np.bool_]

    @classmethod
    def of_robot(
        cls, contract: Contract, scaling: Scaling, steps: int, rate: float
    ) -> "Correction":
        """For all joints of a robot but its grippers, within its position limits."""
        return cls(
            steps=steps,
            rate=rate,
            low=scaling.normalise([limit.lower for limit in contract.limits]),
            high=scaling.normalise([limit.upper for limit in contract.limits]),
            free=np.array([gripper is None for gripper in contract.grippers]),
        )

    def __call__(
        self, energies: Callable[[Tensor], Tensor], chunk: Tensor, past: int = 0
    ) -> Tensor:
        """Takes steps of rate · dE/da from the actions a, none longer than 0.2 ‖a‖.

        Args:
            energies: Of (1, T, A) chunks, (1,); differentiable.
            chunk: (T, M) normalised, M at least A; what lies beyond A stays.
            past: First actions that stay as they are, since the robot carries them out anyway.

        Returns:
            (T, M): corrected, or the chunk itself where that has not lowered the energy.
        """
        joints = len(self.free)
        low, high = (torch.tensor(limit).to(chunk) for limit in (self.low, self.high))
        free = torch.tensor(self.free, device=chunk.device).expand(len(chunk), -1).clone()
        free[:past] = False
        first = actions = chunk[:, :joints]
        with torch.enable_grad():
            for _ in range(self.steps):
                actions = actions.detach().requires_grad_()
                (slope,) = torch.autograd.grad(energies(actions[None]).sum(), actions)
                step = self.rate * torch.where(free, slope, 0.0)
                longest = LONGEST_STEP * actions.norm()
                step = step * (longest / step.norm().clamp(min=1e-12)).clamp(max=1.0)
                moved = torch.clamp(actions - step, low, high)
                actions = torch.where(free, moved, actions)
        with torch.no_grad():
            before, after = (energies(some[None]) for some in (first, actions))
        if not bool(after < before):  # nor where it is no number
            return chunk
        return torch.cat([actions.detach(), chunk[:, joints:]], dim=1)
