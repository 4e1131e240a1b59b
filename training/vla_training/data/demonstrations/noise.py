# SPDX-License-Identifier: Apache-2.0
"""Bursts of noise that push the arm off its way, so that demonstrations show ways back."""

from dataclasses import dataclass

import numpy as np

from vla_nodes.sim.scene import ARM_JOINTS, JOINTS
from vla_training.data.errors import DataError

SHORTEST, LONGEST = 2, 5  # frames of a burst


@dataclass(frozen=True)
class NoiseSettings:
    """How strong noise is.

    Attributes:
        noise_share: Share of the frames that are in a burst; a burst is 2 to 5 frames long.
        noise_size: Standard deviation of a burst's offset to each arm joint's command, rad.
    """

    noise_share: float = 0.06
    noise_size: float = 0.06

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            DataError: One is out of its range.
        """
        if not 0.0 <= self.noise_share < 1.0:
            raise DataError(f"--noise-share is {self.noise_share}; it must be 0 or more, below 1")
        if not 0.0 <= self.noise_size <= 0.5:
            raise DataError(f"--noise-size is {self.noise_size} rad; it must lie in 0..0.5")


class Bursts:
    """Draws the offset of one frame after the other."""

    def __init__(self, settings: NoiseSettings, rng: np.random.Generator) -> None:
        self._settings, self._rng = settings, rng
        share, mean = settings.noise_share, (SHORTEST + LONGEST) / 2
        self._chance = share / (mean * (1.0 - share) + share)  # that a burst begins
        self._offset = np.zeros(len(JOINTS))
        self._left = 0

    def draw(self) -> np.ndarray:
        """The next frame's offset (6,); the gripper is left alone."""
        if self._left == 0:
            self._offset = np.zeros(len(JOINTS))
            if self._rng.random() < self._chance:
                self._left = int(self._rng.integers(SHORTEST, LONGEST + 1))
                size = self._settings.noise_size
                self._offset[: len(ARM_JOINTS)] = self._rng.normal(0.0, size, len(ARM_JOINTS))
        self._left = max(0, self._left - 1)
        return self._offset
