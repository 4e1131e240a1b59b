# SPDX-License-Identifier: Apache-2.0
"""How far predicted chunks of actions lie from recorded ones, and what guessing would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

POLICY, BEST, HOLD, MEAN = "policy", "best sample", "hold", "mean chunk"
"""What predicts: the policy, the best of its samples, and two that know nothing."""

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ActionErrors:
    """Errors of any number of chunks, summed by step and joint.

    Attributes:
        count: (T,) actions that were compared.
        absolute: (T, A) sums of absolute errors.
        squared: (T, A) sums of squared errors.
    """

    count: npt.NDArray[np.int64]
    absolute: Array
    squared: Array

    @classmethod
    def none(cls, steps: int, joints: int) -> Self:
        """Nothing compared yet."""
        return cls(np.zeros(steps, np.int64), *np.zeros((2, steps, joints)))

    @classmethod
    def of(cls, predicted: Array, recorded: Array, is_pad: Bools) -> Self:
        """Compares B chunks.

        Args:
            predicted: (B, T, A).
            recorded: Likewise.
            is_pad: (B, T), True for actions that do not count.
        """
        error = np.where(is_pad[..., None], 0.0, predicted - recorded)
        return cls((~is_pad).sum(0), np.abs(error).sum(0), np.square(error).sum(0))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.count + other.count, self.absolute + other.absolute, self.squared + other.squared
        )

    def scaled(self, factors: Array) -> Self:
        """In units of which one of the old is (A,) ``factors``."""
        return type(self)(self.count, self.absolute * factors, self.squared * factors**2)

    def over_steps(self) -> Self:
        """Of all steps together, as if a chunk had one step; every action counts the same."""
        sums = (part.sum(0, keepdims=True) for part in (self.count, self.absolute, self.squared))
        return type(self)(*sums)

    @property
    def mae(self) -> Array:
        """(T, A) mean absolute errors; NaN for a step at which nothing was compared."""
        return self._mean(self.absolute)

    @property
    def rmse(self) -> Array:
        """(T, A) roots of mean squared errors; NaN likewise."""
        return np.sqrt(self._mean(self.squared))

    def _mean(self, sums: Array) -> Array:
        count = self.count[:, None]
        return np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)


def best_candidate(candidates: Array, recorded: Array, is_pad: Bools, factors: Array) -> Array:
    """Of K candidates for each chunk, the one that lies nearest to the recording.

    A robot cannot choose so; it says what a perfect judge of candidates would gain.

    Args:
        candidates: (K, B, T, A).
        recorded: (B, T, A).
        is_pad: (B, T), True for actions that do not count.
        factors: (A,) weights of joints against each other.

    Returns:
        (B, T, A), those of the least mean absolute error over steps and joints.
    """
    error = np.where(is_pad[..., None], 0.0, np.abs(candidates - recorded) * factors)
    best = error.sum((-2, -1)).argmin(0)
    return candidates[best, np.arange(len(recorded))]


def mean_chunk(actions: Array, ends: npt.NDArray[np.int64], steps: int) -> Array:
    """The mean of the chunks that begin at every frame.

    Args:
        actions: (N, A) of all frames.
        ends: (N,) row behind the last one that follows a frame without a break.
        steps: In a chunk, T.

    Returns:
        (T, A); NaN for a step that no chunk reaches.
    """
    rows, mean = np.arange(len(actions)), np.full((steps, actions.shape[1]), np.nan)
    for step in range(steps):
        reached = rows[rows + step < ends] + step
        if reached.size:
            mean[step] = actions[reached].mean(0)
    return mean


def held_position(
    state: Array, state_names: Sequence[str], actions: Array, action_names: Sequence[str]
) -> Array:
    """Chunks that stay where the robot is.

    Args:
        state: (B, S).
        state_names: S names.
        actions: (B, T, A) recorded.
        action_names: A names, with or without ``.position`` or ``.pos``. Where they are not all
            among the states', the recorded chunk's own first action is held.

    Returns:
        (B, T, A).
    """
    places = {_joint(name): place for place, name in enumerate(state_names)}
    joints = [_joint(name) for name in action_names]
    known = places.keys() >= set(joints)
    held = state[:, [places[joint] for joint in joints]] if known else actions[:, 0]
    return np.repeat(held[:, None], actions.shape[1], axis=1)


def _joint(name: str) -> str:
    return name.removesuffix(".position").removesuffix(".pos")
