# SPDX-License-Identifier: Apache-2.0
"""Returns, advantages and indicators against loops written straight from the formulas."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_training.data.errors import DataError
from vla_training.data.labels.labels import advantages, indicators, returns, weights


class Episodes(NamedTuple):
    lengths: list[int]
    tasks: list[int]
    failed: list[bool]


@st.composite
def some_episodes(draw: st.DrawFn, longest: int = 20) -> Episodes:
    rows = st.tuples(st.integers(1, longest), st.integers(0, 3), st.booleans())
    lengths, tasks, failed = zip(*draw(st.lists(rows, min_size=1, max_size=8)), strict=True)
    return Episodes(list(lengths), list(tasks), list(failed))


def looped_returns(
    episodes: Episodes, mode: str, coefficient: float = 1.0, max_steps: int = 500
) -> list[float]:
    lengths, tasks, failed = episodes
    flat = []
    for length, task, failure in zip(lengths, tasks, failed, strict=True):
        longest = max(other for other, kind in zip(lengths, tasks, strict=True) if kind == task)
        penalty = coefficient * longest
        for t in range(length):
            remaining = length - t - 1
            if mode == "per_task":
                g = -remaining - (penalty if failure else 0)
                flat.append(g / (longest + penalty))
            elif mode == "global":
                flat.append(-1.0 if failure else max(-1.0, -remaining / max_steps))
            else:
                flat.append(-(length - t) / length)
    return flat


def looped_advantages(
    y: list[float], values: list[float], lengths: list[int], horizon: int
) -> list[float]:
    flat, start = [], 0
    for length in lengths:
        returns_, v = y[start : start + length], values[start : start + length]
        rewards = [returns_[t] - returns_[t + 1] for t in range(length - 1)] + [returns_[-1]]
        for t in range(length):
            ahead = sum(rewards[t : t + horizon])
            bootstrap = v[t + horizon] if t + horizon < length else 0.0
            flat.append(ahead + bootstrap - v[t])
        start += length
    return flat


def looped_indicators(
    scores: list[float], tasks: list[int], corrected: list[bool], quantile: float
) -> list[bool]:
    flat = []
    for score, task, person in zip(scores, tasks, corrected, strict=True):
        peers = sorted(s for s, kind in zip(scores, tasks, strict=True) if kind == task)
        place = quantile * (len(peers) - 1)
        low = int(place)
        high = min(low + 1, len(peers) - 1)
        threshold = peers[low] + (place - low) * (peers[high] - peers[low])
        flat.append(person or score >= threshold)
    return flat


@settings(deadline=None)
@given(some_episodes(), st.floats(0.01, 20))
def test_returns_per_task_are_those_of_the_formula(episodes: Episodes, coefficient: float) -> None:
    y = returns(*episodes, mode="per_task", coefficient=coefficient)
    np.testing.assert_allclose(y, looped_returns(episodes, "per_task", coefficient), atol=1e-12)


@settings(deadline=None)
@given(some_episodes(), st.integers(1, 30))
def test_global_returns_are_those_of_the_formula(episodes: Episodes, max_steps: int) -> None:
    y = returns(*episodes, mode="global", max_steps=max_steps)
    np.testing.assert_allclose(
        y, looped_returns(episodes, "global", max_steps=max_steps), atol=1e-12
    )


@settings(deadline=None)
@given(some_episodes())
def test_returns_per_episode_are_those_of_the_formula(episodes: Episodes) -> None:
    y = returns(*episodes, mode="per_episode")
    np.testing.assert_allclose(y, looped_returns(episodes, "per_episode"), atol=1e-12)


@settings(deadline=None)
@given(
    some_episodes(longest=2000),
    st.sampled_from(["per_task", "global", "per_episode"]),
    st.floats(1e-300, 1e300),
    st.integers(1, 10**9),
)
def test_returns_lie_between_minus_one_and_zero(
    episodes: Episodes, mode: str, coefficient: float, max_steps: int
) -> None:
    y = returns(*episodes, mode=mode, coefficient=coefficient, max_steps=max_steps)
    assert y.dtype == np.float64
    assert len(y) == sum(episodes.lengths)
    assert np.all((y >= -1) & (y <= 0))


@settings(deadline=None)
@given(some_episodes())
def test_successes_lie_above_the_middle_and_failures_below(episodes: Episodes) -> None:
    y = returns(*episodes)
    lost = np.repeat(episodes.failed, episodes.lengths)
    assert np.all(y[~lost] > -0.5)
    assert np.all(y[lost] <= -0.5)


def test_a_success_ends_at_zero_and_a_failure_does_not() -> None:
    y = returns([3, 2], ["pour", "pour"], [False, True])
    np.testing.assert_allclose(y, [-2 / 6, -1 / 6, 0, -4 / 6, -3 / 6])


def test_without_failures_the_coefficient_may_be_zero() -> None:
    np.testing.assert_allclose(returns([4], [0], [False], coefficient=0), [-0.75, -0.5, -0.25, 0])


def test_no_episodes_have_no_labels() -> None:
    assert returns([], [], []).shape == (0,)
    assert advantages([], [], []).shape == (0,)
    assert indicators([], [], []).shape == (0,)


@settings(deadline=None)
@given(some_episodes(), st.integers(1, 30), st.data())
def test_advantages_are_those_of_the_formula(
    episodes: Episodes, horizon: int, data: st.DataObject
) -> None:
    values = data.draw(arrays(float, sum(episodes.lengths), elements=st.floats(-2, 2)))
    y = returns(*episodes)
    a = advantages(y, values, episodes.lengths, horizon=horizon)
    expected = looped_advantages(y.tolist(), values.tolist(), episodes.lengths, horizon)
    np.testing.assert_allclose(a, expected, atol=1e-12)


@settings(deadline=None)
@given(some_episodes(), st.integers(1, 10**12))
def test_a_value_that_equals_the_return_has_no_advantage(episodes: Episodes, horizon: int) -> None:
    y = returns(*episodes)
    a = advantages(y, y, episodes.lengths, horizon=horizon)
    np.testing.assert_allclose(a, 0, atol=1e-12)


@settings(deadline=None)
@given(
    st.lists(
        # Halves: interpolation between them is exact, and ties are frequent.
        st.tuples(st.integers(-8, 8).map(lambda k: k / 2), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([0.25, 0.5, 0.75]),
)
def test_indicators_are_those_of_the_formula(
    frames: list[tuple[float, int, bool]], quantile: float
) -> None:
    scores, tasks, corrected = map(list, zip(*frames, strict=True))
    positive = indicators(scores, tasks, corrected, quantile=quantile)
    assert positive.dtype == bool
    assert positive.tolist() == looped_indicators(scores, tasks, corrected, quantile)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 4))
def test_three_in_ten_frames_of_each_task_are_positive(count: int, kinds: int) -> None:
    scores = np.random.default_rng(count).permutation(count * kinds).astype(float)
    tasks = np.arange(count * kinds) % kinds
    positive = indicators(scores, tasks, np.zeros(count * kinds, bool))
    for kind in range(kinds):
        assert abs(positive[tasks == kind].sum() - 0.3 * count) <= 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([2, 0], [0, 0], [0, 0]), "episode 1 is 0"),
        (([2, -3], [0, 0], [0, 0]), "episode 1 is -3"),
        (([2.5], [0], [0]), "float64"),
        (([2, 2], [0], [0, 0]), "tasks have shape (1,)"),
        (([2, 2], [0, 0], [0]), "failed have shape (1,)"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(arguments: tuple, named: str) -> None:
    with pytest.raises(DataError) as refusal:
        returns(*arguments)
    assert named in str(refusal.value)


def test_a_failure_that_costs_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="coefficient is 0 and 2 episodes failed"):
        returns([3, 3, 3], [0, 0, 0], [True, False, True], coefficient=0)


@pytest.mark.parametrize("coefficient", [-1.0, np.nan, np.inf])
def test_a_coefficient_that_is_no_length_is_refused(coefficient: float) -> None:
    with pytest.raises(DataError, match="coefficient is"):
        returns([3], [0], [False], coefficient=coefficient)


def test_no_steps_are_refused() -> None:
    with pytest.raises(DataError, match="max_steps is 0"):
        returns([3], [0], [False], mode="global", max_steps=0)
    with pytest.raises(DataError, match="horizon is 0"):
        advantages([0, 0], [0, 0], [2], horizon=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    with pytest.raises(DataError, match=f"values of frame 1 is {value}"):
        advantages([-0.5, -0.25, 0], [0, value, 0], [3])
    with pytest.raises(DataError, match=f"advantages of frame 2 is {value}"):
        indicators([0, 0, value], [0, 0, 0], [False] * 3)


def test_other_counts_of_frames_are_refused() -> None:
    with pytest.raises(DataError, match=r"values have shape \(2,\), expected \(3,\)"):
        advantages([0, 0, 0], [0, 0], [3])
    with pytest.raises(DataError, match=r"tasks have shape \(1,\), expected \(2,\)"):
        indicators([0, 0], [0], [False, False])


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.2, 7.0, np.nan])
def test_a_quantile_outside_its_range_is_refused(quantile: float) -> None:
    with pytest.raises(DataError, match="quantile is"):
        indicators([0.0], [0], [False], quantile=quantile)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 2)), min_size=1, max_size=30),
    st.floats(0.02, 3),
    st.floats(0.5, 50),
)
@settings(deadline=None)
def test_weights_are_those_of_a_loop(
    frames: list[tuple[float, int]], beta: float, limit: float
) -> None:
    raw = [min(float(np.exp(np.longdouble(a) / beta)), limit) for a, _ in frames]
    means = {
        task: np.mean([w for w, (_, of) in zip(raw, frames, strict=True) if of == task])
        for _, task in frames
    }
    expected = [w / means[task] for w, (_, task) in zip(raw, frames, strict=True)]
    got = weights([a for a, _ in frames], [t for _, t in frames], beta=beta, limit=limit)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_weights_of_hopeless_frames_still_have_a_mean_of_1() -> None:
    np.testing.assert_allclose(weights([-1.0, -1.0], [0, 0], beta=1e-4), [1, 1])


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"beta": np.nan}, {"beta": 1, "limit": 0.0}])
def test_weights_without_scale_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="of weights is"):
        weights([0.1], [0], **wrong)
