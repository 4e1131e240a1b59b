# SPDX-License-Identifier: Apache-2.0
"""The labels of a dataset's frames, made of its columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vla_training.data.errors import DataError
from vla_training.data.labels.columns import Frames, read_frames, read_texts
from vla_training.data.labels.labels import Mode, advantages, indicators, returns, weights
from vla_training.data.labels.subtask_returns import NO_SUBTASK, subtask_returns
from vla_training.data.schema import OUTCOME, SUBTASK, Outcome

RETURN = "return"
SUBTASK_RETURN = "subtask_return"
VALUE = "value"
ADVANTAGE = "advantage"
POSITIVE = "positive"
WEIGHT = "weight"
LABELS = (RETURN, SUBTASK_RETURN, VALUE, ADVANTAGE, POSITIVE, WEIGHT)
UNLABELLED = -1
"""In ``positive``, a frame without a label; its other labels are NaN."""
TASK = "task_index"


@dataclass(frozen=True)
class Settings:
    """What the labels follow from, beside the dataset.

    Attributes:
        mode: Scale of returns: by the longest episode of the task, by ``max_steps``, or by
            each episode's own length.
        coefficient: For ``per_task``: what a failure costs, in longest episodes of the task.
        max_steps: For ``global``: frames from -1 to 0.
        horizon: Frames that an advantage looks ahead.
        quantile: Advantages from this quantile of their task on are positive.
        values: Column with a model's value of every frame, which advantages need.
        corrected: Column that is 1 where a person had taken over; such frames are positive.
        beta: Adds weights: exp(advantage / beta).
        max_weight: Most of a weight, before they are scaled to a mean of 1 per task.
        unknown: What episodes of unknown outcome count as; with ``skip`` they get no labels.
    """

    mode: Mode = "per_task"
    coefficient: float = 1.0
    max_steps: int = 500
    horizon: int = 50
    quantile: float = 0.7
    values: str | None = None
    corrected: str | None = None
    beta: float | None = None
    max_weight: float = 20.0
    unknown: Literal["refuse", "success", "failure", "skip"] = "refuse"


def read_inputs(
    root: Path, info: Mapping[str, Any], settings: Settings, absent: str | None = None
) -> Frames:
    """Reads what the labels follow from.

    Args:
        root: Of the dataset.
        info: Its ``info.json``.
        settings: How to label.
        absent: Column that may be missing.

    Raises:
        DataError: A column is missing, or cannot be used.
    """
    used = [column for column in (settings.values, settings.corrected) if column]
    if settings.corrected and not settings.values:
        raise DataError("corrected frames matter to advantages alone, which need --values")
    if settings.beta is not None and not settings.values:
        raise DataError("weights follow from advantages, which need --values")
    if own := [column for column in used if column in LABELS and column != VALUE]:
        raise DataError(f"column {own[0]} is a label, expected one that labels are made from")
    there = [column for column in used if column in info["features"] or column != absent]
    known = [OUTCOME] if OUTCOME in info["features"] else []
    frames = read_frames(root, info, [TASK, *known, *there])
    if SUBTASK not in info["features"]:
        return frames
    return frames.with_column(SUBTASK, read_texts(root, SUBTASK))


def make_labels(frames: Frames, settings: Settings) -> dict[str, npt.NDArray[Any]]:
    """Makes the columns, (N,) each.

    Args:
        frames: As ``read_inputs`` reads them.
        settings: How to label.

    Raises:
        DataError: The settings make no sense, the outcome of an episode is unknown, or a value
            is not finite.
    """
    tasks = frames.of_episodes(TASK)
    failed, chosen = _outcomes(frames, settings)
    labelled = np.repeat(chosen, frames.lengths)
    lengths = frames.lengths[chosen]
    scale: Any = {
        "mode": settings.mode,
        "coefficient": settings.coefficient,
        "max_steps": settings.max_steps,
    }
    y = returns(lengths, tasks[chosen], failed[chosen], **scale)
    columns = {RETURN: _spread(y, labelled)}
    if SUBTASK in frames.columns:
        subtasks = frames.columns[SUBTASK][labelled]
        if (subtasks != NO_SUBTASK).any():
            within = subtask_returns(lengths, subtasks, failed[chosen], **scale)
            columns[SUBTASK_RETURN] = _spread(within, labelled)
    if settings.values:
        a = advantages(
            y, _values(frames, settings.values, labelled), lengths, horizon=settings.horizon
        )
        corrected = _corrected(frames, settings)[labelled]
        kinds = np.repeat(tasks[chosen], lengths)
        good = indicators(a, kinds, corrected, quantile=settings.quantile)
        columns[ADVANTAGE] = _spread(a, labelled)
        columns[POSITIVE] = np.full(len(labelled), UNLABELLED, np.int64)
        columns[POSITIVE][labelled] = good
        if settings.beta is not None:
            w = weights(a, kinds, beta=settings.beta, limit=settings.max_weight)
            columns[WEIGHT] = _spread(w, labelled)
    return columns


def _outcomes(
    frames: Frames, settings: Settings
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which episodes failed, and which are to be labelled, (E,) each."""
    count = len(frames.lengths)
    outcomes: npt.NDArray[Any] = np.full(count, Outcome.UNKNOWN)
    if OUTCOME in frames.columns:
        outcomes = frames.of_episodes(OUTCOME)
        strange = outcomes[~np.isin(outcomes, list(Outcome))]
        if strange.size:
            raise DataError(f"{OUTCOME} holds {strange[0]}, expected -1, 0 or 1")
    failed = outcomes == Outcome.FAILURE
    unknown = outcomes == Outcome.UNKNOWN
    if settings.mode == "per_episode" or not unknown.any():
        return failed, np.ones(count, bool)
    if settings.unknown == "refuse":
        names = np.flatnonzero(unknown)
        raise DataError(
            f"the outcome of {len(names)} of {count} episodes is unknown "
            f"({_listed(names)}); say what they count as with --unknown"
        )
    if settings.unknown == "skip":
        if unknown.all():
            raise DataError("the outcome of every episode is unknown: none is left to label")
        return failed, ~unknown
    return failed | (unknown & (settings.unknown == "failure")), np.ones(count, bool)


def _spread(values: npt.NDArray[np.float64], labelled: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    column = np.full(len(labelled), np.nan, np.float32)
    column[labelled] = values
    return column


def _values(
    frames: Frames, column: str, labelled: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Values of the frames that are labelled."""
    values = frames.columns[column]
    bad = np.flatnonzero(labelled & ~np.isfinite(values))
    if bad.size:
        episode = np.searchsorted(np.cumsum(frames.lengths), bad[0], side="right")
        raise DataError(
            f"column {column} is {values[bad[0]]} in episode {episode} and not finite in "
            f"{bad.size} frames, expected a finite number in each"
        )
    return values[labelled].astype(np.float64)


def _corrected(frames: Frames, settings: Settings) -> npt.NDArray[np.bool_]:
    """Where a person had taken over, (N,)."""
    if not settings.corrected:
        return np.zeros(frames.lengths.sum(), bool)
    values = frames.columns[settings.corrected]
    if not np.isin(values, (0, 1)).all():
        raise DataError(f"column {settings.corrected} holds other numbers than 0 and 1")
    return values.astype(bool)


def _listed(numbers: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown}, ..." if len(numbers) > 10 else shown
