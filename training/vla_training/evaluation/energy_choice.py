# SPDX-License-Identifier: Apache-2.0
"""Whether the chunk with the lowest energy among K of a policy's samples is the better one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import comb
from scipy.stats import rankdata, spearmanr

from vla_training.evaluation.energy_separation import Interval, episode_draws, interval_of

COUNTS = (1, 2, 4, 8, 16)
"""Samples to choose from, as far as there are so many."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SampleErrors:
    """Of M samples in each of N frames, against the expert's chunk.

    Attributes:
        each: (N, M, A) squared errors of every sample, mean over its steps, normalised.
        mean: (N, A) those of the mean of all M samples.
        episode: (N,) what tells episodes apart.
    """

    each: Array
    mean: Array
    episode: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        samples: npt.NDArray[np.floating],
        expert: npt.NDArray[np.floating],
        episode: npt.NDArray[np.int64],
    ) -> "SampleErrors":
        """Of samples (N, M, T, A) and the expert's chunks (N, T, A), both normalised."""
        error = samples.astype(np.float64) - expert[:, None]
        return cls(
            each=np.square(error).mean(2), mean=np.square(error.mean(1)).mean(1), episode=episode
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Those of ``COUNTS`` that there are samples for."""
        return tuple(count for count in COUNTS if count <= self.each.shape[1])

    @property
    def total(self) -> Array:
        """(N, M) squared errors, mean over joints."""
        return self.each.mean(2)

    def of_mean(self, count: int) -> Array:
        """(N, A) squared errors of the mean of ``count`` samples, mean over all such choices.

        An error is that of the mean of all, and what samples vary about it; of that a mean of
        fewer keeps the finite population's share.
        """
        samples = self.each.shape[1]
        varied = self.each.mean(1) - self.mean
        kept = (samples - count) / (count * (samples - 1)) if samples > 1 else 0.0
        return self.mean + kept * varied


@dataclass(frozen=True)
class Figure:
    """Root of a mean squared error of the chunks that are taken in every frame.

    Attributes:
        count: Samples that one was taken from, K.
        rms: Over frames, steps and joints, normalised.
        joints: (A,) over frames and steps, in each joint's own unit.
        change: ``rms`` against that of any sample, as a share of that; negative is better.
        interval: Of ``change``, over other draws of episodes; None for one episode.
    """

    count: int
    rms: float
    joints: tuple[float, ...]
    change: float
    interval: Interval | None


@dataclass(frozen=True)
class Correlation:
    """Spearman's, of a sample's energy and its error.

    Attributes:
        within: Among the samples of a frame, mean over frames: does the lower energy mean the
            smaller error? A frame whose samples are all equal counts 0. None where there is one
            sample of each frame, which is in no order.
        interval: Of ``within``, over other draws of episodes; None for one episode.
        across: Among all samples of all frames: does a threshold find the poor ones? None where
            energies or errors are all the same.
    """

    within: float | None
    interval: Interval | None
    across: float | None


def lowest_of(scores: Array, errors: Array, count: int) -> Array:
    """Errors of the sample with the lowest score among ``count``, mean over all such choices.

    Of M samples, the one that ``r`` others undercut is the lowest of as many choices as there
    are of ``count`` - 1 among those above it.

    Args:
        scores: (N, M).
        errors: (N, M, A).
        count: Samples to choose from, K, from 1 to M.

    Returns:
        (N, A).
    """
    samples = scores.shape[1]
    weights = comb(samples - 1 - np.arange(samples), count - 1) / comb(samples, count)
    order = np.argsort(scores, axis=1, kind="stable")
    return np.einsum("m,nma->na", weights, np.take_along_axis(errors, order[..., None], axis=1))


def _figure(errors: SampleErrors, taken: Array, count: int, units: Array, seed: int) -> Figure:
    """Sums up what was taken.

    Args:
        errors: Of all samples.
        taken: (N, A) squared errors of what was taken.
        count: Samples that it was taken from.
        units: (A,) of a joint's own in one normalised.
        seed: Of the draws of episodes.
    """
    sums = [
        _by_episode(squared.mean(1), errors.episode) for squared in (taken, errors.each.mean(1))
    ]
    weights = episode_draws(errors.episode, seed)
    rms, before = (float(np.sqrt(one.sum() / len(taken))) for one in sums)
    ours, any_sample = (np.sqrt(weights @ one) for one in sums)
    with np.errstate(invalid="ignore"):  # a draw may have no error at all
        changes = ours / any_sample - 1.0
    return Figure(
        count=count,
        rms=rms,
        joints=tuple((np.sqrt(taken.mean(0)) * units).tolist()),
        change=rms / before - 1.0 if before else 0.0,
        interval=interval_of(changes),
    )


def choices(
    errors: SampleErrors, scores: Array | None, units: Array, seed: int = 0
) -> list[Figure]:
    """The samples with the lowest scores, of each of the counts.

    Args:
        errors: Of all samples.
        scores: (N, M); None for the errors themselves, which is the best that can be chosen.
        units: (A,) of a joint's own in one normalised.
        seed: Of the draws of episodes.
    """
    judge = errors.total if scores is None else scores
    return [
        _figure(errors, lowest_of(judge, errors.each, count), count, units, seed)
        for count in errors.counts
    ]


def means(errors: SampleErrors, units: Array, seed: int = 0) -> list[Figure]:
    """The mean of as many samples, of each of the counts; arguments as of ``choices``."""
    return [_figure(errors, errors.of_mean(count), count, units, seed) for count in errors.counts]


def correlate(errors: SampleErrors, energies: Array, seed: int = 0) -> Correlation:
    """Correlates energies (N, M) with errors."""
    varied = np.ptp(energies) and np.ptp(errors.total)
    across = spearmanr(energies.ravel(), errors.total.ravel()).statistic if varied else None
    across = None if across is None else float(across)
    if energies.shape[1] == 1:
        return Correlation(None, None, across)
    each = rank_correlations(energies, errors.total)
    weights = episode_draws(errors.episode, seed)
    frames = _by_episode(np.ones(len(each)), errors.episode)
    drawn = (weights @ _by_episode(each, errors.episode)) / (weights @ frames)
    return Correlation(float(each.mean()), interval_of(drawn), across)


def rank_correlations(first: Array, second: Array) -> Array:
    """Spearman's correlation of each row: (N, M) and (N, M) to (N,).

    A row that is all the same puts nothing in order: 0.
    """
    ranks: Sequence[Array] = [rankdata(one, axis=1) for one in (first, second)]
    one, other = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    size = np.sqrt(np.square(one).sum(1) * np.square(other).sum(1))
    return np.divide((one * other).sum(1), size, out=np.zeros(len(one)), where=size > 0)


def _by_episode(figures: Array, episode: npt.NDArray[np.int64]) -> Array:
    """Sums (E,) of figures of frames, (N,)."""
    return np.bincount(np.unique(episode, return_inverse=True)[1], figures).astype(np.float64)
