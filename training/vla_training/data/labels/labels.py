# SPDX-License-Identifier: Apache-2.0
"""Returns of frames, advantages from values, and how much they make a frame count.

E episodes of L_e frames each; arrays over frames are flat, N = sum of L_e, episode after
episode. All of it is computed in float64.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from vla_training.data.errors import DataError

Mode = Literal["per_task", "global", "per_episode"]
Floats = npt.NDArray[np.float64]


def returns(
    lengths: npt.ArrayLike,
    tasks: npt.ArrayLike,
    failed: npt.ArrayLike,
    *,
    mode: Mode = "per_task",
    coefficient: float = 1.0,
    max_steps: int = 500,
) -> Floats:
    """How far every frame is from a success, from 0 at the goal down to -1.

    With ``remaining = L - t - 1`` for frame t of an episode of L frames:

    - ``per_task``: ``-(remaining + c * failed) / (M + c)``, where M is the longest episode of
      the task and ``c = coefficient * M``. With coefficient 1 successes lie in (-0.5, 0] and
      failures in [-1, -0.5].
    - ``global``: ``max(-1, -remaining / max_steps)``, and -1 throughout a failure.
    - ``per_episode``: ``-(L - t) / L``, whatever the task and the outcome.

    Args:
        lengths: (E,) frames of each episode, at least 1.
        tasks: (E,) integers or texts that tell tasks apart; for ``per_task``.
        failed: (E,) bool; for ``per_task`` and ``global``.
        mode: As above.
        coefficient: Length that a failure adds, in longest episodes of the task; for ``per_task``.
        max_steps: Frames from -1 to 0; for ``global``.

    Returns:
        (N,), in [-1, 0].

    Raises:
        DataError: A length that is not positive, arrays of other lengths, or a coefficient of
            0 although episodes failed, which would label their ends as successes.
    """
    frames = _lengths(lengths)
    failures = _per("failed", failed, len(frames), "episodes").astype(bool)
    labels = _per("tasks", tasks, len(frames), "episodes")
    remaining = (np.repeat(np.cumsum(frames), frames) - np.arange(frames.sum()) - 1.0).astype(float)
    lost = np.repeat(failures, frames)
    if mode == "per_episode":
        return -(remaining + 1) / np.repeat(frames, frames)
    if mode == "global":
        if max_steps < 1:
            raise DataError(f"max_steps is {max_steps}, expected at least 1")
        return np.where(lost, -1.0, np.maximum(-1.0, 0.0 - remaining / max_steps))
    if not (math.isfinite(coefficient) and coefficient >= 0):
        raise DataError(f"coefficient is {coefficient}, expected a finite number from 0")
    if coefficient == 0 and failures.any():
        raise DataError(
            f"coefficient is 0 and {failures.sum()} episodes failed, which would get the labels "
            "of successes; expected a coefficient above 0"
        )
    _, kinds = np.unique(labels, return_inverse=True)
    longest = np.zeros(len(frames))
    np.maximum.at(longest, kinds, frames)
    scale = np.repeat(longest[kinds], frames)
    penalty = coefficient * scale
    return 0.0 - (remaining + penalty * lost) / (scale + penalty)


def advantages(
    returns: npt.ArrayLike, values: npt.ArrayLike, lengths: npt.ArrayLike, *, horizon: int = 50
) -> Floats:
    """How much better than its value a frame turned out over the next ``horizon`` frames.

    The reward of a frame is its return less the next frame's, and the last frame's is its
    return. So the rewards of n frames add up to ``y_t - y_{t+n}``, or to ``y_t`` where the
    episode ends before, and the advantage is that sum plus the value reached (0 past the end)
    less the value of the frame.

    Args:
        returns: (N,) y.
        values: (N,) the model's, of the same frames.
        lengths: (E,) frames of each episode.
        horizon: n, in frames, at least 1.

    Returns:
        (N,).

    Raises:
        DataError: Numbers that are not finite, arrays of other lengths, or a horizon below 1.
    """
    frames = _lengths(lengths)
    total = int(frames.sum())
    y = _finite("returns", _per("returns", returns, total, "frames"))
    v = _finite("values", _per("values", values, total, "frames"))
    if horizon < 1:
        raise DataError(f"horizon is {horizon}, expected at least 1")
    ahead = np.arange(total) + min(horizon, total)
    inside = ahead < np.repeat(np.cumsum(frames), frames)
    reached = ahead[inside]
    result = y - v
    result[inside] += v[reached] - y[reached]
    return result


def indicators(
    advantages: npt.ArrayLike,
    tasks: npt.ArrayLike,
    corrected: npt.ArrayLike,
    *,
    quantile: float = 0.7,
) -> npt.NDArray[np.bool_]:
    """Which frames count as good: from the quantile of their task on, and every correction.

    Args:
        advantages: (N,).
        tasks: (N,) integers or texts that tell tasks apart.
        corrected: (N,) bool: a person had taken over. Such frames count in the quantile too.
        quantile: Between 0 and 1; interpolated linearly between frames.

    Returns:
        (N,) bool.

    Raises:
        DataError: A quantile outside (0, 1), advantages that are not finite, or arrays of other
            lengths.
    """
    if not 0 < quantile < 1:
        raise DataError(f"quantile is {quantile}, expected a number between 0 and 1")
    scores = _finite("advantages", np.ravel(advantages))
    positive = _per("corrected", corrected, len(scores), "frames").astype(bool)
    if not len(scores):
        return positive
    _, kinds, counts = np.unique(
        _per("tasks", tasks, len(scores), "frames"), return_inverse=True, return_counts=True
    )
    groups = np.split(scores[np.argsort(kinds, kind="stable")], np.cumsum(counts)[:-1])
    thresholds = np.array([np.quantile(group, quantile) for group in groups])
    return positive | (scores >= thresholds[kinds])


def weights(
    advantages: npt.ArrayLike, tasks: npt.ArrayLike, *, beta: float, limit: float = 20.0
) -> Floats:
    """How much a frame is to count in training: ``exp(A / beta)``, at most ``limit``.

    They are scaled so that their mean over each task is 1, which leaves tasks as important as
    they were. Advantage-weighted regression: https://arxiv.org/abs/1910.00177.

    Args:
        advantages: (N,).
        tasks: (N,) integers or texts that tell tasks apart.
        beta: Above 0; an advantage that is greater by beta makes the weight e times as large.
        limit: Above 0, before the weights are scaled.

    Returns:
        (N,), not negative.

    Raises:
        DataError: A beta or a limit that is not positive, advantages that are not finite, or
            arrays of other lengths.
    """
    for name, number in (("beta", beta), ("limit", limit)):
        if not (math.isfinite(number) and number > 0):
            raise DataError(f"{name} of weights is {number}, expected a finite number above 0")
    scores = np.minimum(_finite("advantages", np.ravel(advantages)) / beta, math.log(limit))
    _, kinds, counts = np.unique(
        _per("tasks", tasks, len(scores), "frames"), return_inverse=True, return_counts=True
    )
    # Less the greatest of the task, so that no exponent is so small that nothing is left.
    greatest = np.full(len(counts), -np.inf)
    np.maximum.at(greatest, kinds, scores)
    shares = np.exp(scores - greatest[kinds])
    return shares * (counts / np.bincount(kinds, shares, len(counts)))[kinds]


def _lengths(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    array = np.asarray(lengths)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise DataError(f"lengths are {array.dtype} {array.shape}, expected (E,) whole numbers")
    if array.size and array.min() < 1:
        episode = int(array.argmin())
        raise DataError(f"length of episode {episode} is {array[episode]}, expected at least 1")
    return array.astype(np.int64)


def _per(name: str, values: npt.ArrayLike | Sequence[str], count: int, what: str) -> npt.NDArray:
    array = np.asarray(values)
    if array.shape != (count,):
        raise DataError(
            f"{name} have shape {array.shape}, expected ({count},), one for each of the {what}"
        )
    return array


def _finite(name: str, values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"{name} of frame {bad[0]} is {array[bad[0]]}, expected a finite number")
    return array
