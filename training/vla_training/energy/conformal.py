# SPDX-License-Identifier: Apache-2.0
"""Thresholds that expert chunks rarely exceed, by split conformal prediction.

Where the energy of a new expert chunk is exchangeable with n others, it is at most the
ceil((n + 1)(1 - epsilon))-th smallest of these with a chance of at least 1 - epsilon, and of at
most 1 - epsilon + 1 / (n + 1) where no two are equal (https://arxiv.org/abs/2107.07511).

Frames of an episode resemble each other, so that they are not exchangeable with those of another
one, and the shares of rejected chunks are also given by episode.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from vla_nodes.models.energy_calibration import QUANTILES, EnergyCalibration, Threshold
from vla_nodes.models.energy_config import HIGHEST, EnergyConfig
from vla_training.data.errors import DataError

CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True, eq=False)
class ExpertEnergies:
    """Energies of the expert chunks of N frames.

    Attributes:
        energies: (N,).
        tasks: (N,) texts, as prompts have them.
        episodes: (N,) another number for each episode.
    """

    energies: NDArray[np.floating]
    tasks: NDArray[np.object_]
    episodes: NDArray[np.int64]

    def __len__(self) -> int:
        """Frames."""
        return len(self.energies)

    def of(self, task: str) -> "ExpertEnergies":
        """Those of a task."""
        chosen = self.tasks == task
        return ExpertEnergies(self.energies[chosen], self.tasks[chosen], self.episodes[chosen])


@dataclass(frozen=True)
class Interval:
    """A share, and between which it lies with ``CONFIDENCE``."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """How many expert chunks a threshold rejects.

    Attributes:
        chunks: That it was held against.
        rejected: Of them.
        by_chunk: Share of chunks rejected, with an interval as if no chunk told of another.
        episodes: That the chunks come from.
        touched: Episodes in which a chunk was rejected.
        by_episode: Mean of the episodes' shares, with an interval as if an episode told no more
            than one chunk: wider than needed, and right however alike its chunks are.
    """

    chunks: int
    rejected: int
    by_chunk: Interval
    episodes: int
    touched: int
    by_episode: Interval


def least_chunks(epsilon: float) -> int:
    """Chunks without which no threshold is finite: ceil(1 / epsilon) - 1."""
    return math.ceil(1 / _exact(epsilon)) - 1


def conformal_threshold(energies: ArrayLike, epsilon: float) -> Threshold:
    """The ceil((n + 1)(1 - epsilon))-th smallest of n energies.

    Args:
        energies: (n,) of expert chunks.
        epsilon: Share of expert chunks that may be rejected, between 0 and 1.

    Raises:
        DataError: An energy is not finite, or n is below ``least_chunks``, which leaves the
            threshold infinite.
    """
    values = np.sort(np.asarray(energies))
    count = len(values)
    if not np.isfinite(values).all():
        raise DataError("an energy of an expert chunk is not finite")
    if count < least_chunks(epsilon):
        raise DataError(
            f"{count} expert chunks, expected at least {least_chunks(epsilon)} for an epsilon of "
            f"{epsilon:g}"
        )
    rank = math.ceil((count + 1) * (1 - _exact(epsilon)))
    return Threshold(float(values[rank - 1]), count)


def calibrate(experts: ExpertEnergies, epsilon: float) -> EnergyCalibration:
    """Thresholds of all tasks together, and of each that has enough chunks.

    Args:
        experts: That the model was not trained on.
        epsilon: Share of expert chunks that may be rejected, between 0 and 1.

    Raises:
        DataError: There are too few chunks for any threshold; says how many episodes it takes.
    """
    least = least_chunks(epsilon)
    if len(experts) < least:
        raise DataError(_too_few(experts, epsilon))
    tasks = {task: experts.of(task).energies for task in sorted(set(experts.tasks))}
    return EnergyCalibration(
        epsilon=epsilon,
        pooled=conformal_threshold(experts.energies, epsilon),
        tasks={
            task: conformal_threshold(energies, epsilon)
            for task, energies in tasks.items()
            if len(energies) >= least
        },
        quantiles=tuple(np.quantile(experts.energies, np.linspace(0, 1, QUANTILES)).tolist()),
    )


def check_rejects(calibration: EnergyCalibration, config: EnergyConfig) -> None:
    """Refuses thresholds by which no chunk of any task would ever be rejected.

    Args:
        calibration: Has them.
        config: Of the energy model.

    Raises:
        DataError: All of them are where the model's energies end.
    """
    lowest = min(one.energy for one in (calibration.pooled, *calibration.tasks.values()))
    if lowest >= config.saturated:
        raise DataError(
            f"all thresholds would be {lowest:.4f} or more, and no energy of this model is above "
            f"{HIGHEST:g}: no chunk would ever be rejected; train the model longer, or with "
            "--no-bounded, or take a larger --epsilon"
        )


def reliability(experts: ExpertEnergies, calibration: EnergyCalibration) -> Reliability:
    """How many of other expert chunks are rejected, each by the threshold of its task.

    Args:
        experts: One or more, which neither training nor calibration saw.
        calibration: To be judged.
    """
    rejected = experts.energies > thresholds_of(calibration, experts.tasks)
    _, episode = np.unique(experts.episodes, return_inverse=True)
    shares = np.bincount(episode, rejected) / np.bincount(episode)
    return Reliability(
        chunks=len(experts),
        rejected=int(rejected.sum()),
        by_chunk=clopper_pearson(rejected.sum(), len(experts)),
        episodes=len(shares),
        touched=int((shares > 0).sum()),
        by_episode=clopper_pearson(shares.sum(), len(shares)),
    )


def thresholds_of(
    calibration: EnergyCalibration, tasks: NDArray[np.object_]
) -> NDArray[np.float64]:
    """(N,) thresholds of N frames, by their tasks."""
    return np.array([calibration.threshold(task) for task in tasks], np.float64)


def clopper_pearson(hits: float, trials: int) -> Interval:
    """The exact interval of a share (https://doi.org/10.1093/biomet/26.4.404).

    Args:
        hits: Trials that succeeded. A sum of shares stands for as many: no values between 0 and
            1 with their mean vary more than hits and misses do.
        trials: One or more.
    """
    tail = (1 - CONFIDENCE) / 2
    low = beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return Interval(float(hits / trials), float(low), float(high))


def _exact(epsilon: float) -> Fraction:
    """The decimal number that was meant: as floats, 50 · (1 - 0.42) is above 29."""
    return Fraction(str(float(epsilon)))


def _too_few(experts: ExpertEnergies, epsilon: float) -> str:
    chunks, episodes = len(experts), len(set(experts.episodes.tolist()))
    expected = f"expected at least {least_chunks(epsilon)} for an epsilon of {epsilon:g}"
    if not chunks:
        return f"no expert chunk to calibrate on, {expected}"
    return (
        f"{chunks} expert chunks of {episodes} episode{'s' * (episodes > 1)} to calibrate on, "
        f"{expected}: {math.ceil(least_chunks(epsilon) * episodes / chunks)} episodes of this "
        f"length, or an epsilon of 1/{chunks + 1} or more"
    )
