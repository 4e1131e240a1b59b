# SPDX-License-Identifier: Apache-2.0
"""Thresholds and intervals against their definitions, loops, scipy's test, and many draws."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from vla_nodes.models.energy_calibration import EnergyCalibration
from vla_training.data.errors import DataError
from vla_training.energy.conformal import (
    ExpertEnergies,
    calibrate,
    clopper_pearson,
    conformal_threshold,
    least_chunks,
    reliability,
)

DRAWS = 6000


def experts(energies, tasks="a", episodes=0):
    """With one task and episode for all, or one each."""
    energies = np.asarray(energies, np.float32)
    tasks = [tasks] * len(energies) if isinstance(tasks, str) else tasks
    return ExpertEnergies(
        energies, np.array(tasks, object), np.broadcast_to(episodes, len(energies))
    )


def by_definition(energies, epsilon):
    """The smallest energy below or at which lie ceil((n + 1)(1 - epsilon)) of n; None for none."""
    rank = math.ceil((len(energies) + 1) * (1 - Fraction(str(epsilon))))
    return min((e for e in energies if sum(o <= e for o in energies) >= rank), default=None)


@settings(max_examples=150, deadline=None)
@given(
    energies=st.lists(st.integers(-6, 6), min_size=1, max_size=60),
    percent=st.integers(1, 99),
)
def test_a_threshold_is_the_one_of_the_definition(energies, percent):
    epsilon, expected = percent / 100, by_definition(energies, percent / 100)
    if expected is None:
        with pytest.raises(DataError, match=f"expected at least {least_chunks(epsilon)} "):
            conformal_threshold(energies, epsilon)
        assert len(energies) < least_chunks(epsilon)
    else:
        found = conformal_threshold(energies, epsilon)
        assert (found.energy, found.count) == (expected, len(energies))
        assert len(energies) >= least_chunks(epsilon)


def test_nineteen_chunks_are_the_fewest_for_five_percent():
    assert least_chunks(0.05) == 19
    assert conformal_threshold(range(19), 0.05).energy == 18.0
    assert conformal_threshold(range(20), 0.05).energy == 19.0
    assert conformal_threshold(range(39), 0.05).energy == 37.0
    with pytest.raises(DataError, match=r"18 expert chunks, expected at least 19 .* of 0\.05"):
        conformal_threshold(range(18), 0.05)


def test_the_rank_is_that_of_the_decimal_number():
    assert math.ceil(50 * (1 - 0.42)) == 30  # 50 * 0.58 is 29, but not as floats
    assert conformal_threshold(range(1, 50), 0.42).energy == 29.0


def test_energies_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        conformal_threshold([1.0] * 30 + [math.nan], 0.05)


@pytest.mark.parametrize(("count", "epsilon"), [(19, 0.05), (50, 0.1), (137, 0.05), (30, 0.3)])
def test_a_new_chunk_is_rejected_as_rarely_as_promised_and_hardly_more_rarely(count, epsilon):
    # Both the calibration and the new chunk are drawn anew: the promise is of both together.
    rng = np.random.default_rng(count)
    draws = rng.gamma(2.0, size=(DRAWS, count + 1))
    kept = sum(new <= conformal_threshold(old, epsilon).energy for *old, new in draws)
    least, most = 1 - epsilon, 1 - epsilon + 1 / (count + 1)
    error = 4 * math.sqrt(least * epsilon / DRAWS)
    assert least - error < kept / DRAWS < most + error


def test_equal_energies_are_kept_together():
    rng = np.random.default_rng(0)
    draws = rng.integers(4, size=(DRAWS, 41))  # a quarter of them share the highest energy
    kept = sum(new <= conformal_threshold(old, 0.1).energy for *old, new in draws)
    assert kept / DRAWS > 0.99
    calibration = calibrate(experts([0.5] * 40), 0.05)
    assert reliability(experts([0.5] * 7), calibration).rejected == 0
    assert reliability(experts([np.nextafter(np.float32(0.5), 1)] * 7), calibration).rejected == 7


def test_a_task_has_its_own_threshold_once_it_has_enough_chunks():
    tasks = ["stack"] * 19 + ["wipe"] * 18
    energies = [*np.arange(19), *np.arange(100, 118)]
    calibration = calibrate(experts(energies, tasks), 0.05)
    assert dict(calibration.tasks) == {"stack": conformal_threshold(range(19), 0.05)}
    assert calibration.pooled == conformal_threshold(energies, 0.05)
    assert calibration.threshold("stack") == 18.0
    assert calibration.threshold("wipe") == calibration.threshold("pour") == 117.0


def test_a_calibration_comes_back_from_its_file(tmp_path):
    energies = np.random.default_rng(1).uniform(0.1, 2.1, 200).astype(np.float32)
    calibration = calibrate(experts(energies, ["a", "b"] * 100), 0.1)
    calibration.write(tmp_path)
    assert EnergyCalibration.read(tmp_path) == calibration
    assert calibration.quantiles[0] == energies.min()
    assert calibration.quantiles[50] == pytest.approx(np.median(energies))
    assert calibration.quantiles[100] == energies.max()
    assert np.float32(calibration.pooled.energy) in energies


@pytest.mark.parametrize(
    ("count", "episodes", "said"),
    [
        (7, [0] * 4 + [9] * 3, "7 expert chunks of 2 episodes to .* at least 19 .* 0.05: 6 epi"),
        (18, [5] * 18, "18 expert chunks of 1 episode .*: 2 episodes .* epsilon of 1/19 or more"),
        (0, [], "no expert chunk to calibrate on, expected at least 19"),
    ],
)
def test_too_few_chunks_are_refused_with_what_it_takes(count, episodes, said):
    with pytest.raises(DataError, match=said):
        calibrate(experts(np.arange(count), episodes=episodes), 0.05)


def test_the_epsilon_that_the_refusal_names_will_do():
    for count in range(1, 40):
        rounded_up = math.ceil(1e4 / (count + 1)) / 1e4
        assert calibrate(experts(np.arange(count)), rounded_up).pooled.energy == count - 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_those_of_scipys_exact_test(counts):
    hits, trials = counts
    theirs = binomtest(hits, trials).proportion_ci(0.95, "exact")
    ours = clopper_pearson(hits, trials)
    assert ours.share == pytest.approx(hits / trials)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_rejections_are_counted_by_chunk_and_by_episode():
    calibration = calibrate(experts(np.linspace(0.0, 1.0, 100)), 0.1)
    rng = np.random.default_rng(2)
    episodes = rng.choice([3, 7, 11, 40], 90)
    held = experts(rng.uniform(0.0, 1.2, 90), episodes=episodes)
    found = reliability(held, calibration)

    rejected = [energy > calibration.pooled.energy for energy in held.energies]
    shares = []
    for episode in (3, 7, 11, 40):
        own = [r for r, e in zip(rejected, episodes, strict=True) if e == episode]
        shares.append(sum(own) / len(own))
    assert (found.chunks, found.rejected) == (90, sum(rejected))
    assert found.by_chunk == clopper_pearson(sum(rejected), 90)
    assert (found.episodes, found.touched) == (4, sum(share > 0 for share in shares))
    assert found.by_episode.share == pytest.approx(np.mean(shares))
    assert found.by_episode.low < found.by_chunk.low
    assert found.by_episode.high > found.by_chunk.high


def test_each_chunk_is_judged_by_the_threshold_of_its_task():
    calibration = calibrate(
        experts([*np.arange(40), *np.arange(100, 140)], ["low"] * 40 + ["high"] * 40), 0.05
    )
    held = experts([50.0, 50.0, 150.0, 150.0], ["low", "high", "high", "new"])
    assert calibration.threshold("new") == calibration.pooled.energy < 150.0
    assert reliability(held, calibration).rejected == 3
    assert reliability(held.of("high"), calibration).rejected == 1


@pytest.mark.parametrize("alike", [False, True])
def test_the_interval_by_episode_holds_the_true_share_however_alike_chunks_are(alike):
    rng = np.random.default_rng(3)
    true, held, narrow = 0.1, 0, 0
    calibration = calibrate(experts(np.linspace(0, 1, 10_001)), true)
    episodes = np.repeat(np.arange(30), 20)
    for _ in range(400):
        energies = rng.uniform(size=30)[episodes] if alike else rng.uniform(size=600)
        found = reliability(experts(energies, episodes=episodes), calibration)
        held += found.by_episode.low <= true <= found.by_episode.high
        narrow += found.by_chunk.low <= true <= found.by_chunk.high
    assert held >= 380 - 3 * math.sqrt(400 * 0.95 * 0.05)
    # What the interval by chunk is worth where an episode's chunks are all the same.
    assert (narrow < 240) if alike else (narrow > 366)
