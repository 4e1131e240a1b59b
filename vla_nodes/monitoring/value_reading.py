# SPDX-License-Identifier: Apache-2.0
"""What is read off a distribution over values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ATOMS = 201
SUPPORT = np.linspace(-1.0, 0.0, ATOMS)


@dataclass(frozen=True)
class Reading:
    """Of one distribution.

    Attributes:
        value: Its mean, in [-1, 0].
        quantiles: For each level, the lowest atom up to which it holds that much.
        entropy: nat.
    """

    value: float
    quantiles: tuple[float, ...]
    entropy: float


def read_value(probabilities: npt.NDArray[np.float32], levels: Sequence[float]) -> Reading:
    """Reads a distribution.

    Args:
        probabilities: (201,), that sum to 1.
        levels: Of the quantiles, each between 0 and 1.

    Raises:
        ValueError: It is no distribution over the atoms.
    """
    mass = np.asarray(probabilities, np.float64)
    if mass.shape != (ATOMS,) or not (mass >= 0).all() or not abs(mass.sum() - 1.0) < 1e-3:
        raise ValueError(
            f"probabilities have shape {mass.shape} and sum to {mass.sum():g}, expected "
            f"({ATOMS},) numbers from 0 on that sum to 1"
        )
    mass = mass / mass.sum()
    held = np.cumsum(mass)
    held /= held[-1]
    places = np.searchsorted(held, np.asarray(levels) - 1e-12)
    possible = mass[mass > 0]
    return Reading(
        value=float(np.clip(mass @ SUPPORT, -1.0, 0.0)),
        quantiles=tuple(SUPPORT[np.minimum(places, ATOMS - 1)].tolist()),
        entropy=float(-(possible * np.log(possible)).sum()),
    )
