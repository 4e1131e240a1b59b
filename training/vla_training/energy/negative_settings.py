# SPDX-License-Identifier: Apache-2.0
"""Which chunks that the expert did not give are made, and how."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["noise", "shift", "reversed", "joints", "other-task", "layers", "samples"]
"""Of negatives. "noise": with noise on it. "shift": what was recorded some frames later or earlier.
"reversed": backwards. "joints": with the joints' trajectories exchanged. "other-task": of a frame
with another text. "layers": of the policy, read from earlier layers. "samples": of the policy."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class NegativeSettings:
    """How negatives are made.

    Attributes:
        noise: Standard deviation of the noise, in those of each joint.
        shift: Frames between a chunk and a shifted one; None for the length of a chunk.
        far: From which root mean square distance to the expert chunk, in normalised units, a chunk
            of the policy's own is a negative.
    """

    noise: float = 1.0
    shift: int | None = None
    far: float = 0.5

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: One cannot be.
        """
        for name in ("noise", "far"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if self.shift is not None and self.shift < 1:
            raise ValueError(f"shift is {self.shift}, expected at least 1 frame")
