# SPDX-License-Identifier: Apache-2.0
"""How good predicted distributions of values are, measured against the labels of the frames."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata, spearmanr

from vla_nodes.models.c51 import nearest_atom, support, two_hot
from vla_training.data.schema import Outcome

LEVELS = tuple(k / 10 for k in range(1, 10))
"""Quantiles whose calibration is measured."""
ORDERED = 0.9
"""Rank correlation above which an episode counts as in order."""

_BLOCK = 1 << 14  # frames at a time, so that what lies between takes little memory

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """F frames, episode after episode, each with the numbers that predictions are held against.

    Attributes:
        episode: (F,) index.
        frame: (F,) place in the episode, rising.
        task: (F,) texts.
        returns: (F,) in [-1, 0].
        outcome: (F,) an ``Outcome``, the same throughout an episode.
    """

    episode: npt.NDArray[np.int64]
    frame: npt.NDArray[np.int64]
    task: npt.NDArray[np.object_]
    returns: npt.NDArray[np.float64]
    outcome: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episode)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "LabelledFrames":
        """Some of the frames."""
        return LabelledFrames(*(getattr(self, field.name)[rows] for field in fields(self)))

    def episodes(self) -> Iterator[tuple[Outcome, npt.NDArray[np.int64]]]:
        """Outcome and rows of every episode."""
        starts = np.flatnonzero(np.diff(self.episode, prepend=-1))
        for rows in np.split(np.arange(len(self)), starts[1:]):
            yield Outcome(self.outcome[rows[0]]), rows


@dataclass(frozen=True)
class Separation:
    """How well values tell successes from failures.

    Attributes:
        successes: Episodes.
        failures: Episodes.
        unknown: Episodes of unknown outcome, which are left out.
        final: Area under the ROC curve of an episode's final value; None without both classes.
        last_quarter: Of the mean value over the last quarter of an episode; likewise.
        missing: Why there are no areas; empty where there are.
    """

    successes: int
    failures: int
    unknown: int
    final: float | None
    last_quarter: float | None
    missing: str


@dataclass(frozen=True)
class Metrics:
    """Of one predictor on some frames.

    Attributes:
        frames: How many.
        loss: Mean cross entropy with two-hot targets, nat.
        top1: Share of frames whose nearest atom is the likeliest one.
        top5: Share of frames whose nearest atom is among the five likeliest.
        mae: Mean absolute error of the expectation.
        calibration: For each of ``LEVELS`` the share of returns at or below that quantile.
        calibration_error: Mean distance of those shares from their levels.
        rank_correlation: Spearman's of value and time, mean over the successful episodes; None
            where there is none.
        ordered: Share of the successful episodes in which it is above ``ORDERED``.
        separation: Of successes and failures.
    """

    frames: int
    loss: float
    top1: float
    top5: float
    mae: float
    calibration: tuple[float, ...]
    calibration_error: float
    rank_correlation: float | None
    ordered: float | None
    separation: Separation


def measure(frames: LabelledFrames, probabilities: Floats) -> Metrics:
    """Measures a predictor.

    Args:
        frames: One at least.
        probabilities: (F, 201) that it gives; each row adds up to 1.

    Raises:
        ValueError: Shapes differ, a row is no distribution, or a return is no value.
    """
    _check(frames, probabilities)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(frames), _BLOCK)]
    loss, place, level = (
        np.concatenate([of(probabilities[b], frames.returns[b]) for b in blocks])
        for of in (cross_entropies, places, levels)
    )
    values = expectations(probabilities)
    calibration = [float(np.mean(level < q - 1e-6)) for q in LEVELS]
    correlations = rank_correlations(frames, values)
    return Metrics(
        frames=len(frames),
        loss=float(loss.mean()),
        top1=float(np.mean(place < 1)),
        top5=float(np.mean(place < 5)),
        mae=float(np.abs(values - frames.returns).mean()),
        calibration=tuple(calibration),
        calibration_error=float(np.abs(np.subtract(calibration, LEVELS)).mean()),
        rank_correlation=float(correlations.mean()) if len(correlations) else None,
        ordered=float(np.mean(correlations > ORDERED)) if len(correlations) else None,
        separation=separate(frames, values),
    )


def expectations(probabilities: Floats) -> npt.NDArray[np.float64]:
    """Means of distributions: (F, 201) to (F,)."""
    return probabilities @ support().double().numpy()


def cross_entropies(probabilities: Floats, returns: Floats) -> npt.NDArray[np.float64]:
    """Cross entropy of each frame's distribution with its two-hot return, (F,), nat."""
    target = two_hot(torch.from_numpy(returns)).numpy()
    # What float32 rounds to 0 is not impossible, and 0 times infinity is no number.
    floored = np.maximum(probabilities, np.finfo(np.float32).tiny).astype(np.float64)
    return -(target * np.log(floored)).sum(-1)


def places(probabilities: Floats, returns: Floats) -> npt.NDArray[np.int64]:
    """How many atoms are likelier than the one nearest to the return, (F,).

    Of atoms that are as likely, the lower ones come first.
    """
    atom = nearest_atom(torch.from_numpy(returns)).numpy()[:, None]
    of_atom = np.take_along_axis(probabilities, atom, axis=-1)
    before = (probabilities == of_atom) & (np.arange(probabilities.shape[-1]) < atom)
    return ((probabilities > of_atom) | before).sum(-1)


def levels(probabilities: Floats, returns: Floats) -> npt.NDArray[np.float64]:
    """Levels from which on a quantile is no lower than the return, (F,).

    It is the mass of all atoms below the return: a quantile of a higher level lies above them.
    """
    held = np.cumsum(probabilities, axis=-1, dtype=np.float64)
    first = np.searchsorted(support().double().numpy(), returns - 1e-6)
    below = np.take_along_axis(held, np.maximum(first - 1, 0)[:, None], axis=-1)[:, 0]
    return np.where(first > 0, below / held[:, -1], 0.0)


def rank_correlations(frames: LabelledFrames, values: Floats) -> npt.NDArray[np.float64]:
    """Spearman's correlation of value and time in each successful episode of two frames or more.

    A value that never changes puts nothing in order: 0.
    """
    return np.array(
        [
            spearmanr(values[rows], frames.frame[rows]).statistic if np.ptp(values[rows]) else 0.0
            for outcome, rows in frames.episodes()
            if outcome == Outcome.SUCCESS and len(rows) > 1
        ]
    )


def separate(frames: LabelledFrames, values: Floats) -> Separation:
    """Separates successful from failed episodes by their values, (F,)."""
    final, quarter, succeeded, unknown = [], [], [], 0
    for outcome, rows in frames.episodes():
        if outcome == Outcome.UNKNOWN:
            unknown += 1
            continue
        final.append(values[rows[-1]])
        quarter.append(values[rows[-max(1, len(rows) // 4) :]].mean())
        succeeded.append(outcome == Outcome.SUCCESS)
    success = np.array(succeeded, bool)
    successes, failures = int(success.sum()), int((~success).sum())
    areas: tuple[float | None, float | None] = (None, None)
    missing = ""
    if successes and failures:
        areas = (
            area_under_curve(np.array(final), success),
            area_under_curve(np.array(quarter), success),
        )
    elif successes or failures:
        missing = f"no {'failure' if successes else 'success'} among {len(success)} episodes"
    else:
        missing = "no episode's outcome is known"
    return Separation(successes, failures, unknown, *areas, missing)


def area_under_curve(scores: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative in which the positive scores higher.

    Equal scores count half: Mann and Whitney's statistic, which is the area under the ROC curve.

    Args:
        scores: (E,).
        positive: (E,), of both kinds.
    """
    count = int(positive.sum())
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * (len(positive) - count)))


def _check(frames: LabelledFrames, probabilities: Floats) -> None:
    if not len(frames) or probabilities.shape != (len(frames), len(support())):
        raise ValueError(
            f"probabilities are {probabilities.shape}, expected ({len(frames)}, {len(support())}) "
            "for one frame at least"
        )
    sound = np.isfinite(probabilities).all(-1) & (probabilities >= 0).all(-1)
    sound &= np.abs(probabilities.sum(-1) - 1.0) < 1e-3
    if not sound.all():
        row = int(np.argmin(sound))
        raise ValueError(
            f"the prediction for frame {frames.frame[row]} of episode {frames.episode[row]} is no "
            "distribution: expected numbers from 0 on that add up to 1"
        )
