# SPDX-License-Identifier: Apache-2.0
"""Areas under curves against loops over pairs, scipy's test and episodes that are drawn by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from vla_training.evaluation.energy_separation import (
    MEAN,
    ScoredFrames,
    episode_draws,
    interval_of,
    pairs_by_episode,
    separate,
)


def make_frames(rng, count=40, episodes=5, gap=1.0, ties=False):
    expert = rng.normal(size=count)
    near, far = (rng.normal(by, size=(count, 3)) for by in (gap, 3 * gap))
    if ties:
        expert, near, far = (np.round(x) for x in (expert, near, far))
    near[rng.uniform(size=near.shape) < 0.3] = np.nan
    episode = np.sort(rng.integers(episodes, size=count)) * 7 + 3
    return ScoredFrames(episode, expert, {"near": near, "far": far})


def area_by_loop(expert, negatives):
    scores = [
        1.0 if theirs > ours else 0.5 if theirs == ours else 0.0
        for ours in expert
        for theirs in np.ravel(negatives)
        if not np.isnan(theirs)
    ]
    return sum(scores) / len(scores)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_the_area_is_that_of_all_pairs_and_of_scipy(seed, ties):
    frames = make_frames(np.random.default_rng(seed), ties=ties)
    for kind, energies in frames.negatives.items():
        found = separate(frames)[kind]
        flat = energies[~np.isnan(energies)]
        assert found.negatives == len(flat)
        assert found.auroc == pytest.approx(area_by_loop(frames.expert, energies), abs=1e-12)
        test = mannwhitneyu(flat, frames.expert)
        assert found.auroc == pytest.approx(
            test.statistic / len(flat) / len(frames.expert), abs=1e-12
        )


def test_pairs_are_counted_by_the_episode_of_either_side():
    frames = make_frames(np.random.default_rng(1), ties=True)
    negatives = frames.negatives["near"]
    higher, pairs = pairs_by_episode(frames.expert, negatives, frames.episode)
    episodes = np.unique(frames.episode)
    for (i, one), (j, other) in itertools.product(enumerate(episodes), repeat=2):
        ours, theirs = frames.expert[frames.episode == one], negatives[frames.episode == other]
        count = len(ours) * (~np.isnan(theirs)).sum()
        assert pairs[i, j] == count
        if count:
            assert higher[i, j] / count == pytest.approx(area_by_loop(ours, theirs))


def test_the_interval_is_that_of_episodes_drawn_anew():
    frames = make_frames(np.random.default_rng(2), count=30, episodes=4)
    areas = []
    for draw in episode_draws(frames.episode, seed=5):
        times = np.repeat(np.arange(len(draw)), draw.astype(int))
        episodes = np.unique(frames.episode)[times]
        rows = np.concatenate([np.flatnonzero(frames.episode == e) for e in episodes])
        far = frames.negatives["far"][rows].ravel()
        wins = mannwhitneyu(far, frames.expert[rows]).statistic
        areas.append(wins / len(far) / len(rows))
    expected = np.quantile(areas, [0.025, 0.975])
    assert separate(frames, seed=5)["far"].interval == pytest.approx(expected, abs=1e-12)
    assert expected[0] < separate(frames)["far"].auroc < expected[1]


def test_intervals_hold_the_truth_as_often_as_they_say_though_frames_of_an_episode_are_alike():
    rng = np.random.default_rng(3)
    episode = np.repeat(np.arange(30), 8)
    held = 0
    for _ in range(60):
        # What episodes have in common moves expert and negatives apart, or together.
        common = rng.normal(size=30)[episode]
        expert, negatives = (
            rng.normal(size=240) + common,
            rng.normal(size=(240, 1)) - common[:, None],
        )
        low, high = separate(ScoredFrames(episode, expert, {"kind": negatives}))["kind"].interval
        held += low <= 0.5 <= high
    assert 50 <= held <= 60


def test_chance_is_a_half_and_a_clear_gap_is_one():
    rng = np.random.default_rng(4)
    episode = np.arange(4000) // 100
    same = ScoredFrames(episode, rng.normal(size=4000), {"a": rng.normal(size=(4000, 1))})
    assert separate(same)["a"].auroc == pytest.approx(0.5, abs=0.03)
    assert separate(same)["a"].same_frame == pytest.approx(0.5, abs=0.03)
    apart = ScoredFrames(episode, np.zeros(4000), {"a": np.ones((4000, 1))})
    assert separate(apart)["a"].auroc == separate(apart)["a"].same_frame == 1.0
    assert separate(apart)["a"].interval == (1.0, 1.0)


def test_a_frames_own_level_does_not_count_within_the_frame():
    level = np.arange(50) * 10.0
    frames = ScoredFrames(np.arange(50) // 10, level, {"a": level[:, None] + 1.0})
    found = separate(frames)["a"]
    assert found.same_frame == 1.0
    assert found.auroc == pytest.approx(area_by_loop(level, level + 1.0))
    assert found.auroc < 0.52


def test_every_frame_counts_the_same_within_frames():
    energies = np.array([[1.0, 1.0, 1.0], [-1.0, np.nan, np.nan], [0.0, 1.0, np.nan], [np.nan] * 3])
    frames = ScoredFrames(np.arange(4), np.zeros(4), {"a": energies})
    assert separate(frames)["a"].same_frame == pytest.approx((1.0 + 0.0 + 0.75) / 3)


def test_the_mean_of_kinds_leaves_out_those_without_a_negative():
    frames = make_frames(np.random.default_rng(6))
    with_none = ScoredFrames(
        frames.episode, frames.expert, {**frames.negatives, "none": np.full((40, 2), np.nan)}
    )
    found = separate(with_none)
    assert list(found) == ["near", "far", "none", MEAN]
    assert found["none"].negatives == 0
    assert found["none"].auroc is found["none"].interval is found["none"].same_frame is None
    assert found[MEAN] == separate(frames)[MEAN]
    assert found[MEAN].auroc == pytest.approx((found["near"].auroc + found["far"].auroc) / 2)
    low, high = found[MEAN].interval
    assert low < found[MEAN].auroc < high
    empty = separate(
        ScoredFrames(frames.episode, frames.expert, {"none": np.full((40, 1), np.nan)})
    )
    assert empty[MEAN].auroc is empty[MEAN].interval is None


def test_some_frames_are_those_asked_for():
    frames = make_frames(np.random.default_rng(8))
    kept = frames.take(frames.episode == 3)
    assert set(kept.episode) == {3}
    assert len(kept.expert) == len(kept.negatives["far"]) == (frames.episode == 3).sum()
    assert separate(kept)["far"].auroc == pytest.approx(
        area_by_loop(kept.expert, kept.negatives["far"])
    )


def test_one_episode_says_nothing_of_others():
    frames = make_frames(np.random.default_rng(7), episodes=1)
    assert separate(frames)["far"].interval is None
    assert separate(frames)["far"].auroc == area_by_loop(frames.expert, frames.negatives["far"])


def test_draws_without_a_negative_are_left_out_of_the_interval():
    energies = np.array([[1.0], [np.nan], [np.nan]])
    frames = ScoredFrames(np.arange(3), np.array([0.0, 2.0, 2.0]), {"a": energies})
    low, high = separate(frames)["a"].interval
    assert 0.0 <= low < high <= 1.0
    assert interval_of(np.array([np.nan])) is None
