# SPDX-License-Identifier: Apache-2.0
"""Statistics of a column as LeRobot keeps them, leaving out what is not finite.

LeRobot's own take seconds to import, and know nothing of frames without a label.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

Statistics = dict[str, list[Any]]


def of_episodes(values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[Statistics]:
    """Statistics of each episode.

    Args:
        values: (N,) episode after episode.
        lengths: (E,) frames of each.
    """
    return [_statistics(part) for part in np.split(values, np.cumsum(lengths)[:-1])]


def of_all(values: npt.NDArray[Any], episodes: Sequence[Statistics]) -> Statistics:
    """Statistics of a whole column, (N,), of which some number is finite.

    Its quantiles are the means of the episodes', weighted by their frames: that is what
    ``stats.json`` holds for every column.
    """
    known = [episode for episode in episodes if episode["count"][0]]
    counts = [episode["count"][0] for episode in known]
    quantiles = {
        name: [float(np.average([episode[name][0] for episode in known], weights=counts))]
        for name in _QUANTILES
    }
    return _statistics(values) | quantiles


def _statistics(values: npt.NDArray[Any]) -> Statistics:
    finite = values[np.isfinite(values)].astype(np.float64)
    count = finite.size
    if not count:
        finite = np.array([np.nan])
    # Values that occur, as those are that LeRobot finds with the bins of a histogram.
    quantiles = np.quantile(finite, list(_QUANTILES.values()), method="inverted_cdf")
    numbers = {
        "min": finite.min(),
        "max": finite.max(),
        "mean": finite.mean(),
        "std": finite.std(),
        **dict(zip(_QUANTILES, quantiles, strict=True)),
    }
    return {**{name: [float(number)] for name, number in numbers.items()}, "count": [count]}
