# SPDX-License-Identifier: Apache-2.0
"""Returns within subtasks against loops written straight from their description."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_training.data.errors import DataError
from vla_training.data.labels.labels import Mode
from vla_training.data.labels.subtask_returns import subtask_returns

Episode = tuple[list[int], bool]  # subtask of each frame, -1 for none; failed

EPISODES = st.lists(
    st.tuples(st.lists(st.integers(-1, 2), min_size=1, max_size=12), st.booleans()),
    min_size=1,
    max_size=6,
)


def looped(episodes: list[Episode], mode: str, coefficient: float, max_steps: int) -> list[float]:
    runs = []  # subtask, length, failed, episode, first frame
    for number, (subtasks, failed) in enumerate(episodes):
        first = 0
        for frame in range(1, len(subtasks) + 1):
            if frame == len(subtasks) or subtasks[frame] != subtasks[first]:
                if subtasks[first] != -1:
                    later = [s for s in subtasks[frame:] if s != -1]
                    lost = failed and not later
                    runs.append((subtasks[first], frame - first, lost, number, first))
                first = frame
    result = {}
    for subtask, length, lost, number, first in runs:
        longest = max(run[1] for run in runs if run[0] == subtask)
        for t in range(length):
            remaining = length - t - 1
            if mode == "per_episode":
                y = -(length - t) / length
            elif mode == "global":
                y = -1.0 if lost else max(-1.0, -remaining / max_steps)
            else:
                cost = coefficient * longest
                y = (-remaining - (cost if lost else 0.0)) / (longest + cost)
            result[number, first + t] = y
    return [
        result.get((number, frame), math.nan)
        for number, (subtasks, _) in enumerate(episodes)
        for frame in range(len(subtasks))
    ]


def made(episodes: list[Episode], **scale: float) -> np.ndarray:
    return subtask_returns(
        np.array([len(subtasks) for subtasks, _ in episodes]),
        np.concatenate([subtasks for subtasks, _ in episodes]).astype(np.int64),
        np.array([failed for _, failed in episodes]),
        **scale,
    )


@pytest.mark.parametrize("mode", ["per_task", "global", "per_episode"])
@given(episodes=EPISODES, coefficient=st.floats(0.1, 3), max_steps=st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_returns_within_subtasks_are_those_of_loops(
    mode: Mode, episodes: list[Episode], coefficient: float, max_steps: int
) -> None:
    scale = {"mode": mode, "coefficient": coefficient, "max_steps": max_steps}
    np.testing.assert_allclose(made(episodes, **scale), looped(episodes, **scale), atol=1e-12)


def test_only_the_last_subtask_of_a_failed_episode_has_failed() -> None:
    reach, place = 0, 1
    got = made(
        [([reach, reach, -1, place, place, -1], True), ([reach, place, place, place], False)]
    )
    np.testing.assert_allclose(
        got, [-1 / 4, 0, np.nan, -4 / 6, -3 / 6, np.nan, 0, -2 / 6, -1 / 6, 0]
    )


def test_the_same_subtask_twice_is_two_runs_and_episodes_are_not_joined() -> None:
    got = made([([0, 0, 1, 0], False), ([0], False)], coefficient=0.0)
    np.testing.assert_allclose(got, [-1 / 2, 0, 0, 0, 0])


def test_a_coefficient_of_0_is_refused_where_a_run_failed() -> None:
    with pytest.raises(DataError, match="coefficient is 0"):
        made([([0, 0], True)], coefficient=0.0)
