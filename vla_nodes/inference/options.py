# SPDX-License-Identifier: Apache-2.0
"""How a policy is to compute, beyond its weights."""

from dataclasses import dataclass, fields
from typing import Literal

from vla_nodes.inference.policy import PolicyError

Dtype = Literal["float32", "bfloat16"]
RealTime = Literal["off", "trained", "guided"]
Planner = Literal["known", "free"]


@dataclass(frozen=True)
class PolicyOptions:
    """What an operator may choose. A backend refuses what it cannot do.

    Attributes:
        candidates: Chunks drawn for one observation, K.
        steps: Euler steps from noise to actions; 0 for the checkpoint's own number.
        guidance: Weight of classifier-free guidance on the advantage text; 1 only asks for good
            actions.
        dtype: Of weights and activations.
        compile: Whether torch.compile is run on the model.
        real_time: How a chunk continues the one that is being executed: not at all, as the
            checkpoint was trained to, or by guidance at inference.
        planner: Whether it chooses among known subtasks, or writes freely.
        energy: Folder of the energy model that judges the chunks; empty for no check.
        resamples: How often chunks are drawn again while the energy check accepts none.
        correction_steps: Gradient steps that lower the energy of an accepted chunk.
        correction_rate: Of such a step, in normalised units for a slope of one energy a unit.
    """

    candidates: int = 1
    steps: int = 0
    guidance: float = 1.0
    dtype: Dtype = "float32"
    compile: bool = False
    real_time: RealTime = "off"
    planner: Planner = "known"
    energy: str = ""
    resamples: int = 2
    correction_steps: int = 0
    correction_rate: float = 0.1

    def refuse_for(self, backend: str) -> None:
        """Checks that nothing was chosen, for a backend that takes no options.

        Raises:
            PolicyError: Something was.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default:
                raise PolicyError(
                    f"{backend} takes no '{option.name}'; found {value!r}, expected the default, "
                    f"{option.default!r}"
                )
