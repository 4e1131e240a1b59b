# SPDX-License-Identifier: Apache-2.0
"""Best of K against all choices of K, and correlations against scipy's."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from vla_training.evaluation.energy_choice import (
    SampleErrors,
    choices,
    correlate,
    lowest_of,
    means,
    rank_correlations,
)

UNITS = np.array([0.5, 2.0, 10.0])


def make_chunks(rng, frames=12, samples=5, steps=4):
    expert = rng.normal(size=(frames, steps, 3))
    return expert[:, None] + rng.normal(0.3, size=(frames, samples, steps, 3)), expert


@pytest.fixture
def chunks():
    return make_chunks(np.random.default_rng(0))


@pytest.fixture
def errors(chunks):
    return SampleErrors.of(*chunks, np.arange(12) // 4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 6), data=st.data())
def test_the_lowest_of_k_is_the_mean_over_all_choices_of_k(seed, samples, data):
    rng = np.random.default_rng(seed)
    count = data.draw(st.integers(1, samples))
    scores, errors = rng.normal(size=(3, samples)), rng.normal(size=(3, samples, 2))
    expected = [
        np.mean(
            [
                errors[row, min(chosen, key=lambda m: scores[row, m])]
                for chosen in itertools.combinations(range(samples), count)
            ],
            axis=0,
        )
        for row in range(3)
    ]
    np.testing.assert_allclose(lowest_of(scores, errors, count), expected, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_the_mean_of_k_is_the_mean_over_all_choices_of_k(chunks, errors, count):
    samples, expert = chunks
    expected = np.mean(
        [
            np.square(samples[:, list(chosen)].mean(1) - expert).mean(1)
            for chosen in itertools.combinations(range(5), count)
        ],
        axis=0,
    )
    np.testing.assert_allclose(errors.of_mean(count), expected, atol=1e-12)


def test_one_sample_is_its_own_mean():
    samples, expert = make_chunks(np.random.default_rng(1), samples=1)
    errors = SampleErrors.of(samples, expert, np.zeros(12, np.int64))
    np.testing.assert_allclose(errors.of_mean(1), np.square(samples[:, 0] - expert).mean(1))
    assert errors.counts == (1,)


def test_figures_are_roots_of_means_normalised_and_in_the_joints_own_units(chunks, errors):
    samples, expert = chunks
    energies = np.random.default_rng(2).normal(size=(12, 5))
    one, two, four = choices(errors, energies, UNITS)
    assert [figure.count for figure in (one, two, four)] == [1, 2, 4]
    error = samples - expert[:, None]
    assert one.rms == pytest.approx(np.sqrt(np.square(error).mean()))
    own = np.sqrt(np.square(error * UNITS).mean((0, 1, 2)))
    assert one.joints == pytest.approx(own)
    assert one.change == pytest.approx(0.0, abs=1e-12)
    assert one.interval == pytest.approx((0.0, 0.0), abs=1e-12)
    assert four.change == pytest.approx(four.rms / one.rms - 1.0)


def test_a_perfect_energy_chooses_the_best_and_a_wrong_one_the_worst(errors):
    best = choices(errors, None, UNITS)
    assert choices(errors, 3.0 * errors.total - 1.0, UNITS) == best  # the same order
    worst = choices(errors, -errors.total, UNITS)
    assert best[0].rms == pytest.approx(worst[0].rms)
    assert best[2].rms < best[1].rms < best[0].rms < worst[1].rms < worst[2].rms
    assert best[2].interval[1] < 0 < worst[2].interval[0]
    assert [figure.count for figure in means(errors, UNITS)] == [1, 2, 4]
    assert means(errors, UNITS)[0].rms == pytest.approx(best[0].rms)


def test_the_interval_of_a_change_is_that_of_episodes_drawn_anew(errors):
    from vla_training.evaluation.energy_separation import episode_draws

    energies = np.random.default_rng(3).normal(size=(12, 5))
    taken = lowest_of(energies, errors.each, 4)
    changes = []
    for draw in episode_draws(errors.episode, 9):
        times = np.repeat(np.arange(3), draw.astype(int))
        rows = np.concatenate([np.flatnonzero(errors.episode == e) for e in times])
        changes.append(np.sqrt(taken[rows].mean() / errors.each[rows].mean()) - 1.0)
    expected = np.quantile(changes, [0.025, 0.975])
    assert choices(errors, energies, UNITS, seed=9)[2].interval == pytest.approx(expected)


def test_samples_without_any_error_leave_nothing_to_gain():
    errors = SampleErrors.of(np.ones((4, 2, 3, 3)), np.ones((4, 3, 3)), np.arange(4))
    for figure in choices(errors, np.zeros((4, 2)), UNITS):
        assert (figure.rms, figure.change, figure.interval) == (0.0, 0.0, None)
    found = correlate(errors, np.random.default_rng(0).normal(size=(4, 2)))
    assert (found.within, found.across) == (0.0, None)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_are_scipys(ties):
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 50, 6)) * 1.5
    if ties:
        first, second = np.round(first), np.round(second)
    found = rank_correlations(first, second)
    for row in range(50):
        if np.ptp(first[row]) and np.ptp(second[row]):
            assert found[row] == pytest.approx(spearmanr(first[row], second[row]).statistic)
    assert len(np.unique(found)) > 10


def test_what_is_all_the_same_puts_nothing_in_order():
    rising = np.arange(4.0)[None]
    assert rank_correlations(np.ones((1, 4)), rising) == 0.0
    assert rank_correlations(rising, np.ones((1, 4))) == 0.0
    assert rank_correlations(rising, rising) == pytest.approx(1.0)
    assert rank_correlations(rising, -rising) == pytest.approx(-1.0)
    assert rank_correlations(np.ones((1, 1)), np.ones((1, 1))) == 0.0


def test_one_sample_of_each_frame_is_in_no_order():
    errors = SampleErrors.of(*make_chunks(np.random.default_rng(7), samples=1), np.arange(12) // 4)
    found = correlate(errors, errors.total**3)
    assert found.within is found.interval is None
    assert found.across == pytest.approx(1.0)


def test_correlation_within_frames_and_across_them_are_told_apart(errors):
    rank = errors.total.argsort(1).argsort(1).astype(float)
    found = correlate(errors, rank + 100.0 * np.random.default_rng(5).permutation(12)[:, None])
    assert found.within == pytest.approx(1.0)
    assert found.interval == pytest.approx((1.0, 1.0))
    assert abs(found.across) < 0.7
    level = np.repeat(errors.total.mean(1, keepdims=True), 5, axis=1)
    across = correlate(errors, level)
    assert across.within == 0.0
    expected = spearmanr(level.ravel(), errors.total.ravel()).statistic
    assert across.across == pytest.approx(expected)


def test_correlation_within_frames_has_the_interval_of_episodes_drawn_anew(errors):
    from vla_training.evaluation.energy_separation import episode_draws

    energies = np.random.default_rng(6).normal(size=(12, 5))
    each = rank_correlations(energies, errors.total)
    drawn = []
    for draw in episode_draws(errors.episode, 0):
        times = np.repeat(np.arange(3), draw.astype(int))
        drawn.append(np.concatenate([each[errors.episode == e] for e in times]).mean())
    expected = np.quantile(drawn, [0.025, 0.975])
    assert correlate(errors, energies).interval == pytest.approx(expected)
